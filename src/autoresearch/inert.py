"""Patches that are no experiment: what they change does not run, or is only which random numbers are drawn."""

import ast
from functools import lru_cache

_SEEDING = ("seed", "manual_seed", "manual_seed_all", "default_rng", "set_rng_state")
SAME = "the patch changes nothing that runs"
SEED = "the patch changes only a seed: which numbers are drawn is luck, and no idea"


def inert(old: str, new: str) -> str | None:
    """Why the change from one source text to another is no experiment, in a line; None if it may be one.

    What does not parse may be anything. Nothing is executed.
    """
    try:
        before, after = _forms(old), _forms(new)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if before[0] == after[0]:
        return SAME
    return SEED if before[1] == after[1] else None


@lru_cache(maxsize=2)  # whoever proposes looks at tip and patch, and so does the loop
def _forms(source: str) -> tuple[str, str]:
    """What runs of a file, and what runs of it whatever the seed."""
    tree = ast.parse(source)
    return ast.dump(_Bare().visit(tree)), ast.dump(_Unseeded().visit(tree))


class _Bare(ast.NodeTransformer):
    """Takes docstrings and other bare constants out."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """A statement that is nothing but a constant does nothing."""
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)


class _Unseeded(_Bare):
    """Takes out statements that seed, what is passed to seeding functions, and values of constants named for a seed."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """`torch.manual_seed(x)` on a line of its own is not there."""
        return None if _seeds(node.value) else super().visit_Expr(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`generator.manual_seed(x)` is `generator.manual_seed()`, whatever x is."""
        self.generic_visit(node)
        return ast.Call(node.func, [], []) if _seeds(node) else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """`SEED = 1337` is `SEED = None`."""
        self.generic_visit(node)
        seeds = all(isinstance(target, ast.Name) and "SEED" in target.id.upper() for target in node.targets)
        return ast.Assign(node.targets, ast.Constant(None)) if seeds else node


def _seeds(node: ast.expr) -> bool:
    """Whether it calls a function that seeds a generator."""
    function = node.func if isinstance(node, ast.Call) else None
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in _SEEDING
