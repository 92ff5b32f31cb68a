"""Functions: compositions of gates on handles. Each states its rounds after the operand's opening and its error."""
