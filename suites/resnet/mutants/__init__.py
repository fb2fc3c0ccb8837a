"""Faulty and correct variants of small ResNets, by how a fault shows."""
