"""The roles: what a party, the provider and the clear reference each hold and may do."""
