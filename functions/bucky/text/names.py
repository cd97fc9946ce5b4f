"""How destinations, rules and crosswalks are named: names become subjects, addresses and labels."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,39}$"
