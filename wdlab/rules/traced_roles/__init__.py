"""What each parameter is, read off the traced loss: roles, their evidence, and rules by role.

The loss is traced to a jaxpr and walked once with abstract values (``values``): which leaves a
value is made of, which of its dimensions are features, how it scales with each leaf (``degrees``).
Where weights meet data (``meetings``), it is noted as what; ``tracing`` sums the notes up.
"""
