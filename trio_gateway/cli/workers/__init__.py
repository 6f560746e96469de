"""More processes than one, at once or after one another.

``supervisor`` keeps ``--workers N`` alive and replaces them; a gateway without one hands over to a
``worker`` of its own and then becomes its supervisor (``heritage``). Parent and worker talk over
``control``.
"""
