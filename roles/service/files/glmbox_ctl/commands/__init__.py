"""The commands of glmboxctl: what a module in this folder lists in COMMANDS is one, see cli.py."""
