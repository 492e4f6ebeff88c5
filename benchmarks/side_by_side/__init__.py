"""Our exports beside the peers' on this machine: what each costs to make, to hold and to run."""
