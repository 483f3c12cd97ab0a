"""The agents and workflows of this deployment; one file each."""
