"""Any model that timm or torchvision lists, held to what any network promises."""
