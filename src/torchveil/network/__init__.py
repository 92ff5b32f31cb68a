"""Roles on machines of their own: links, sessions, consent, storage. See docs/design/0010-roles-on-machines.md."""
