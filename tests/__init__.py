"""The tests; the rooms they use live on a real Synapse wherever that is marked."""
