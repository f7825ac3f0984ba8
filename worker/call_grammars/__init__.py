"""Grammars of calls, in llguidance's Lark: in the syntax of the model, by the tools' schemas."""
