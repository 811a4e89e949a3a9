"""Where a bundle comes from, for those who ship it: its parts and their licences (SBOM), and how it was made."""
