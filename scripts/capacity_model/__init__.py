"""How far a core goes, and what a million clients do when they all come back: unit costs, a fluid
model in virtual time, a page and a chart. ``scripts/capacity`` writes them to ``docs/``."""
