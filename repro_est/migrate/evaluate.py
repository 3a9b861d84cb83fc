"""What is known of a Python program without running it: constants, what is made of constants, and calls.

A small reader of the syntax tree. It follows names from top to bottom, knows text, numbers, lists, dicts and a few
pure functions of paths, and keeps every call as a `Thing` with what it was called with, what was set on it later and
which methods were called on it. Where a value depends on anything else (an argument, a branch, a loop, the outside),
the answer is a Thing too, with the program's text: never a guess. Functions are read with the names of the finished
module and arguments that are not known. Nothing of the program is ever executed.
"""

from __future__ import annotations

import ast
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from repro_est.files import is_utf8

_LONGEST = 100_000
_Block = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Thing:
    """What is no plain value: an object made by a call, an imported name, or something not known.

    Args:
        text: the program's text.
        name: the last part of what was called or named.
        owner: the object a method was called on.
        module: where an imported name comes from.
        called: whether this is what a call gave.
        full: the full name of what was imported, `""` for all else.
        variable: the first name it was given.
        calls: methods called on it.
        items: what was set by `thing[key] = value`.
        block: the branches and loops it was made in.
    """

    text: str
    line: int
    name: str = ""
    owner: Any = None
    module: str = ""
    full: str = ""
    called: bool = False
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    more: list[Thing] = field(default_factory=list)
    variable: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    calls: list[Thing] = field(default_factory=list)
    items: Items = field(default_factory=lambda: Items())
    block: _Block = ()

    def get(self, name: str, position: int | None = None) -> Any:
        """Returns an argument, None when it is not given."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if position is not None and position < len(self.args) else None

    def line_of(self, name: str) -> int:
        return self.lines.get(name, self.line)


class Items(dict[Any, Any]):
    """A dict of the program, with the line of each key, and what may be in it besides."""

    def __init__(self, pairs: Any = (), *, block: _Block = ()) -> None:
        super().__init__(pairs)
        self.lines: dict[Any, int] = {}
        self.more: list[Thing] = []
        self.block = block

    def copied(self, block: _Block = ()) -> Items:
        copy = Items(self, block=block)
        copy.lines, copy.more = dict(self.lines), list(self.more)
        return copy


class Row(list[Any]):
    """A list of the program, with the line of each item, and what may be in it besides."""

    def __init__(self, values: Iterable[Any] = (), *, block: _Block = ()) -> None:
        super().__init__(values)
        self.lines: list[int] = []
        self.more: list[Thing] = []
        self.block = block

    def copied(self, block: _Block = ()) -> Row:
        copy = Row(self, block=block)
        copy.lines, copy.more = list(self.lines), list(self.more)
        return copy


class PathText(str):
    """A path made by `Path(...)`."""

    __slots__ = ()


def is_known(value: Any) -> bool:
    """Whether nothing in a value is a Thing."""
    if isinstance(value, Items):
        return not value.more and all(is_known(item) for item in value.values())
    if isinstance(value, Row | tuple):
        return not getattr(value, "more", None) and all(map(is_known, value))
    return not isinstance(value, Thing)


class Program:
    """The calls of one program, in the order of its lines.

    Args:
        file: the name of the program's file, for `__file__`.
    """

    def __init__(self, tree: ast.Module, file: str) -> None:
        self.calls: list[Thing] = []
        self._blocks = self._loops = 0
        self._block: _Block = ()
        self._functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
        self._scope: dict[str, Any] = {"__name__": "__main__", "__file__": os.path.join(".", file)}
        self._visit_all(tree.body)
        module = self._scope
        while self._functions:
            function = self._functions.pop(0)
            self._scope = dict(module)
            self._block = (self._next_block(),)
            for argument in _arguments(function.args):
                text = f"{argument.arg}, an argument of {function.name}"
                self._scope[argument.arg] = Thing(text, argument.lineno)
            self._visit_all(function.body)
        self.calls.sort(key=lambda thing: thing.line)

    # ---- statements

    def _visit_all(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            self._visit(statement)

    def _visit(self, node: ast.stmt) -> None:
        match node:
            case ast.Import():
                self._import(node)
            case ast.ImportFrom():
                for alias in node.names:
                    name = alias.asname or alias.name
                    full = f"{node.module or ''}.{alias.name}"
                    self._scope[name] = Thing(alias.name, node.lineno, alias.name, module=node.module or ".", full=full)
            case ast.Assign():
                value = self.value(node.value)
                for target in node.targets:
                    self._assign(target, value, node)
            case ast.AnnAssign(target=target, value=ast.expr() as given):
                self._assign(target, self.value(given), node)
            case ast.AugAssign():
                self._augment(node)
            case ast.Expr():
                self.value(node.value)
            case ast.Return(value=ast.expr() as given):
                self.value(given)
            case ast.If():
                self._if(node)
            case ast.For() | ast.AsyncFor():
                self.value(node.iter)
                self._loop(node.body, node.target)
                self._visit_all(node.orelse)
            case ast.While():
                self._loop(node.body, None)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    value = self.value(item.context_expr)
                    if item.optional_vars is not None:
                        self._assign(item.optional_vars, value, node)
                self._visit_all(node.body)
            case ast.Try():
                self._visit_all(node.body)
                kept = dict(self._scope)
                self._branch([handler.body for handler in node.handlers])
                self._scope |= kept
                self._visit_all([*node.orelse, *node.finalbody])
            case ast.Match():
                self._branch([case.body for case in node.cases])
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._functions.append(node)
                self._scope[node.name] = Thing(node.name, node.lineno, node.name)
            case ast.ClassDef():
                self._functions += [item for item in node.body if isinstance(item, ast.FunctionDef)]
                self._scope[node.name] = Thing(node.name, node.lineno, node.name)
            case ast.Delete():
                for target in node.targets:
                    if isinstance(target, ast.Subscript):
                        self._unsure(self.value(target.value), node)
            case _:
                pass

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            text = alias.name if alias.asname else name
            self._scope[name] = Thing(text, node.lineno, text.rpartition(".")[2], module=alias.name, full=text)

    def _if(self, node: ast.If) -> None:
        test = self.value(node.test)
        if isinstance(test, Thing) or not is_known(test):
            self._branch([node.body, node.orelse])
        else:
            self._visit_all(node.body if test else node.orelse)

    def _loop(self, body: list[ast.stmt], target: ast.expr | None) -> None:
        self._loops += 1
        self._branch([body], target)
        self._loops -= 1

    def _branch(self, bodies: list[list[ast.stmt]], target: ast.expr | None = None) -> None:
        """Visits what may or may not happen; a name that it gives another value is not known afterwards."""
        outer, block = self._scope, self._block
        ends: list[dict[str, Any]] = []
        for body in bodies:
            self._scope, self._block = dict(outer), (*block, self._next_block())
            if target is not None:
                self._forget(target, "changes in the loop")
            self._visit_all(body)
            ends.append(self._scope)
        self._scope, self._block = dict(outer), block
        if not all(bodies) or len(bodies) == 1:
            ends.append(outer)
        for name in {name for end in ends for name in end}:
            first, *others = [end.get(name, _NOTHING) for end in ends]
            if all(_same(first, other) for other in others):
                self._scope[name] = first
            else:
                self._scope[name] = Thing(f"{name}, set in one branch or another", 0)

    def _assign(self, target: ast.expr, value: Any, node: ast.stmt) -> None:
        match target:
            case ast.Name():
                self._scope[target.id] = value
                if isinstance(value, Thing) and value.variable is None:
                    value.variable = target.id
            case ast.Attribute():
                owner = self.value(target.value)
                if isinstance(owner, Thing):
                    owner.attributes[target.attr] = self._here(owner.block, value, node)
                    owner.lines[target.attr] = node.lineno
            case ast.Subscript():
                self._set_item(self.value(target.value), self.value(target.slice), value, node)
            case ast.Tuple() | ast.List():
                values = value if isinstance(value, Row | tuple) and len(value) == len(target.elts) else None
                for number, element in enumerate(target.elts):
                    part = values[number] if values is not None else self._thing(node)
                    self._assign(element, part, node)
            case _:
                pass

    def _set_item(self, owner: Any, key: Any, value: Any, node: ast.stmt) -> None:
        table = owner.items if isinstance(owner, Thing) else owner
        if isinstance(table, Items) and not isinstance(key, Thing | Row | Items) and self._may_change(owner.block):
            table[key] = value
            table.lines[key] = node.lineno
        elif isinstance(table, Row) and isinstance(key, int) and self._may_change(owner.block) and key < len(table):
            table[key] = value
        else:
            self._unsure(table, node)

    def _augment(self, node: ast.AugAssign) -> None:
        if not isinstance(node.target, ast.Name):
            self.value(node.value)
            return
        old, value = self._scope.get(node.target.id), self.value(node.value)
        if isinstance(old, Row) and isinstance(node.op, ast.Add):
            self._extend(old, value, node)
        elif isinstance(old, Items) and isinstance(node.op, ast.BitOr):
            self._update(old, value, node)
        else:
            known = self._operate(node.op, old, value, node) if self._loops == 0 else self._thing(node)
            self._scope[node.target.id] = known

    def _forget(self, target: ast.expr, why: str) -> None:
        for name in ast.walk(target):
            if isinstance(name, ast.Name):
                self._scope[name.id] = Thing(f"{name.id}, which {why}", name.lineno)

    # ---- blocks: what happens always, and what only perhaps

    def _next_block(self) -> int:
        self._blocks += 1
        return self._blocks

    def _may_change(self, block: _Block) -> bool:
        """Whether a change made here is one for sure: what is changed was made in this branch too."""
        return self._block[: len(block)] == block and len(self._block) == len(block)

    def _here(self, block: _Block, value: Any, node: ast.stmt) -> Any:
        return value if self._may_change(block) else Thing(f"{ast.unparse(node)}, in one branch", node.lineno)

    def _unsure(self, container: Any, node: ast.stmt | ast.expr) -> None:
        if isinstance(container, Items | Row):
            container.more.append(self._thing(node))

    # ---- expressions

    def value(self, node: ast.expr) -> Any:
        """Returns the value of an expression: plain, or a Thing."""
        try:
            return self._value(node)
        except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, OverflowError, AttributeError):
            return self._thing(node)

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                is_plain = isinstance(node.value, str | int | float | None)
                return node.value if is_plain and is_utf8(str(node.value)) else self._thing(node)
            case ast.Name():
                return self._scope[node.id] if node.id in self._scope else Thing(node.id, node.lineno, node.id)
            case ast.JoinedStr():
                return self._joined(node)
            case ast.List():
                return self._row(node.elts)
            case ast.Tuple():
                return tuple(self._row(node.elts))
            case ast.Dict():
                return self._items(node)
            case ast.BinOp():
                return self._operate(node.op, self.value(node.left), self.value(node.right), node)
            case ast.UnaryOp():
                return self._unary(node)
            case ast.BoolOp() | ast.Compare():
                return self._test(node)
            case ast.IfExp():
                test, body, other = map(self.value, (node.test, node.body, node.orelse))
                return self._thing(node) if not is_known(test) else body if test else other
            case ast.Subscript():
                return self._subscript(node)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Call():
                return self._call(node)
            case ast.Await() | ast.Starred():
                return self.value(node.value)
            case ast.NamedExpr():
                value = self.value(node.value)
                self._scope[node.target.id] = value
                return value
        return self._thing(node)

    def _thing(self, node: ast.expr | ast.stmt, **more: Any) -> Thing:
        return Thing(_text(node), node.lineno, block=self._block, **more)

    def _joined(self, node: ast.JoinedStr) -> Any:
        parts: list[str] = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                value = self.value(part.value)
                if not isinstance(value, str | int | float | None):
                    return self._thing(node)
                form = self._joined(part.format_spec) if isinstance(part.format_spec, ast.JoinedStr) else ""
                if isinstance(form, Thing) or re.search("[0-9]{5}", form):
                    return self._thing(node)
                convert = _CONVERSIONS.get(part.conversion)
                parts.append(format(convert(value) if convert else value, form))
            elif isinstance(part, ast.Constant):
                parts.append(str(part.value))
        return "".join(parts)

    def _row(self, nodes: Iterable[ast.expr]) -> Row:
        row = Row(block=self._block)
        for node in nodes:
            value = self.value(node)
            if not isinstance(node, ast.Starred):
                row.append(value)
                row.lines.append(node.lineno)
            elif isinstance(value, Row | tuple):
                row.extend(value)
                row.lines += [node.lineno] * len(value)
                row.more += getattr(value, "more", [])
            else:
                row.more.append(self._thing(node))
        return row

    def _items(self, node: ast.Dict) -> Items:
        items = Items(block=self._block)
        for key, item in zip(node.keys, node.values, strict=True):
            value = self.value(item)
            if key is None:
                self._update(items, value, item)
                continue
            name = self.value(key)
            if isinstance(name, Thing | Row | Items):
                items.more.append(self._thing(key))
            else:
                items[name] = value
                items.lines[name] = key.lineno
        return items

    def _operate(self, sign: ast.operator, left: Any, right: Any, node: ast.expr | ast.stmt) -> Any:
        if isinstance(sign, ast.Div) and (isinstance(left, PathText) or isinstance(right, PathText)):
            whole = isinstance(left, str) and isinstance(right, str)
            return PathText(os.path.join(left, right)) if whole else self._thing(node)
        if isinstance(sign, ast.Add) and isinstance(left, Row) and isinstance(right, Row):
            row = left.copied(self._block)
            self._extend(row, right, node)
            return row
        if isinstance(sign, ast.BitOr) and isinstance(left, Items) and isinstance(right, Items):
            items = left.copied(self._block)
            self._update(items, right, node)
            return items
        function = _OPERATORS.get(type(sign))
        plain = isinstance(left, str | int | float) and isinstance(right, str | int | float | tuple)
        if function is None or not plain or not is_known(right) or _is_large(sign, left, right):
            return self._thing(node)
        try:
            return function(left, right)
        except (TypeError, ValueError, ArithmeticError):
            return self._thing(node)

    def _unary(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if not is_known(value):
            return self._thing(node)
        match node.op:
            case ast.USub():
                return -value
            case ast.UAdd():
                return +value
            case ast.Not():
                return not value
        return self._thing(node)

    def _test(self, node: ast.BoolOp | ast.Compare) -> Any:
        if isinstance(node, ast.BoolOp):
            result: Any = None
            for part in node.values:
                result = self.value(part)
                if not is_known(result):
                    return self._thing(node)
                if bool(result) is isinstance(node.op, ast.Or):
                    break
            return result
        values = [self.value(item) for item in (node.left, *node.comparators)]
        function = _COMPARISONS.get(type(node.ops[0]))
        if len(values) != 2 or function is None or not all(map(is_known, values)):
            return self._thing(node)
        return function(values[0], values[1])

    def _subscript(self, node: ast.Subscript) -> Any:
        owner, key = self.value(node.value), self.value(node.slice)
        if isinstance(owner, Thing):
            if not isinstance(key, Thing | Row | Items) and key in owner.items:
                return owner.items[key]
            return self._thing(node, owner=owner)
        if isinstance(owner, Items | Row) and owner.more:
            return self._thing(node)
        return owner[key] if isinstance(key, str | int) else self._thing(node)

    def _attribute(self, node: ast.Attribute) -> Any:
        owner = self.value(node.value)
        if isinstance(owner, Thing):
            if node.attr not in owner.attributes:
                child = Thing(_text(node), node.lineno, node.attr, owner, owner.module, block=owner.block)
                owner.attributes[node.attr] = child
            return owner.attributes[node.attr]
        if isinstance(owner, PathText):
            return _path_attribute(owner, node.attr)
        return self._thing(node)

    # ---- calls

    def _call(self, node: ast.Call) -> Any:
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value)
            if not isinstance(owner, Thing):
                args = [self.value(argument) for argument in node.args]
                return self._method(owner, node.func.attr, args, node)
        known = self._known_function(node)
        if known is not _NOTHING:
            return known
        function = self.value(node.func)
        made = self._thing(node, called=True)
        if isinstance(function, Thing):
            made.name, made.owner, made.module = function.name, function.owner, function.module
        row = self._row(node.args)
        made.args, made.more = list(map(_copied, row)), list(row.more)
        for keyword in node.keywords:
            value = self.value(keyword.value)
            if keyword.arg is not None:
                made.kwargs[keyword.arg] = _copied(value)
                made.lines[keyword.arg] = keyword.value.lineno
            elif isinstance(value, Items):
                made.kwargs |= {str(name): _copied(item) for name, item in value.items()}
                made.lines |= {str(name): line for name, line in value.lines.items()}
                made.more += value.more
            else:
                made.more.append(self._thing(keyword.value))
        if isinstance(made.owner, Thing):
            made.owner.calls.append(made)
        self.calls.append(made)
        return made

    def _known_function(self, node: ast.Call) -> Any:
        """The value of a pure function of known values, `_NOTHING` for any other call."""
        function = _PURE.get(self._dotted(node.func))
        if function is None:
            return _NOTHING
        args = [self.value(argument) for argument in node.args]
        if function is dict:
            return self._made_dict(args, node)
        if function is list:
            return args[0].copied(self._block) if args and isinstance(args[0], Row) else Row(*args, block=self._block)
        if node.keywords or not all(map(is_known, args)) or any(isinstance(item, ast.Starred) for item in node.args):
            return self._thing(node)
        return function(*args)

    def _made_dict(self, args: list[Any], node: ast.Call) -> Any:
        items = Items(block=self._block)
        for argument in args:
            self._update(items, argument, node)
        for keyword in node.keywords:
            value = self.value(keyword.value)
            if keyword.arg is None:
                self._update(items, value, keyword.value)
            else:
                items[keyword.arg] = value
                items.lines[keyword.arg] = keyword.value.lineno
        return items

    def _dotted(self, node: ast.expr) -> str:
        """The full name of a function, imports resolved: `os.path.join` for `osp.join`."""
        if isinstance(node, ast.Name):
            thing = self._scope.get(node.id)
            if not isinstance(thing, Thing):
                return node.id if thing is None else ""
            return "" if thing.called else thing.full
        if isinstance(node, ast.Attribute):
            above = self._dotted(node.value)
            return f"{above}.{node.attr}" if above else ""
        return ""

    def _method(self, owner: Any, name: str, args: list[Any], node: ast.Call) -> Any:
        if isinstance(owner, Row) and name in ("append", "extend", "insert", "remove", "pop", "clear", "sort"):
            if name == "append" and len(args) == 1:
                self._extend(owner, (args[0],), node)
            elif name == "extend" and len(args) == 1:
                self._extend(owner, args[0], node)
            else:
                self._unsure(owner, node)
            return None
        if isinstance(owner, Items):
            return self._dict_method(owner, name, args, node)
        if node.keywords and name != "format":
            return self._thing(node)
        if isinstance(owner, PathText) and name in ("resolve", "absolute", "expanduser", "as_posix"):
            return owner
        if isinstance(owner, PathText) and name == "joinpath" and all(isinstance(item, str) for item in args):
            return PathText(os.path.join(owner, *args))
        if isinstance(owner, str) and name in _TEXT_METHODS and all(map(is_known, args)):
            if name == "format" and re.search("[0-9]{5}", owner):
                return self._thing(node)
            named = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
            if all(map(is_known, named.values())):
                result = getattr(str(owner), name)(*args, **named)
                return Row(result, block=self._block) if isinstance(result, list) else result
        return self._thing(node)

    def _dict_method(self, owner: Items, name: str, args: list[Any], node: ast.Call) -> Any:
        if name == "update":
            for argument in args:
                self._update(owner, argument, node)
            for keyword in node.keywords:
                pairs = Items({keyword.arg: self.value(keyword.value)}) if keyword.arg else self.value(keyword.value)
                self._update(owner, pairs, node)
            return None
        if name == "copy":
            return owner.copied(self._block)
        if name == "get" and args and not isinstance(args[0], Thing) and not owner.more:
            return owner.get(args[0], args[1] if len(args) > 1 else None)
        if name in ("pop", "setdefault", "clear", "popitem"):
            self._unsure(owner, node)
        return self._thing(node)

    def _extend(self, row: Row, values: Any, node: ast.expr | ast.stmt) -> None:
        if not isinstance(values, Row | tuple) or not self._may_change(row.block):
            self._unsure(row, node)
            return
        row.extend(values)
        row.lines += getattr(values, "lines", None) or [node.lineno] * len(values)
        row.more += getattr(values, "more", [])

    def _update(self, items: Items, values: Any, node: ast.expr | ast.stmt) -> None:
        if not isinstance(values, Items) or not self._may_change(items.block):
            self._unsure(items, node)
            return
        items.update(values)
        items.lines.update(dict.fromkeys(values, node.lineno) | values.lines)
        items.more += values.more


_NOTHING = object()
_TEXT_METHODS = ("format", "join", "replace", "lower", "upper", "strip", "lstrip", "rstrip", "split", "removesuffix")
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_CONVERSIONS: dict[int, Callable[[Any], str]] = {ord("r"): repr, ord("s"): str, ord("a"): ascii}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}


def _parent(path: str) -> str:
    return os.path.dirname(path) or "." if os.path.basename(path) not in ("", ".", "..") else os.path.join(path, "..")


_PURE: dict[str, Callable[..., Any]] = {
    "os.path.join": os.path.join,
    "os.path.abspath": str,
    "os.path.realpath": str,
    "os.path.expanduser": str,
    "os.path.normpath": os.path.normpath,
    "os.path.dirname": _parent,
    "os.path.basename": os.path.basename,
    "os.getcwd": lambda: ".",
    "os.fspath": str,
    "pathlib.Path": lambda *parts: PathText(os.path.join(*parts) if parts else "."),
    "pathlib.Path.cwd": lambda: PathText("."),
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "tuple": tuple,
    "dict": dict,
}
"""Functions whose value is known when their arguments are; a path is relative to the program's directory."""


def _path_attribute(path: PathText, name: str) -> str:
    match name:
        case "parent":
            return PathText(_parent(path))
        case "name":
            return os.path.basename(path)
        case "stem":
            return os.path.splitext(os.path.basename(path))[0]
    raise AttributeError(name)


def _is_large(sign: ast.operator, left: Any, right: Any) -> bool:
    """Whether the value of an operation may be too long to be anybody's parameter."""
    texts = [len(item) for item in (left, right) if isinstance(item, str)]
    numbers = [abs(item) for item in (left, right) if isinstance(item, int)]
    if isinstance(sign, ast.Mult) and texts and numbers:
        return texts[0] * numbers[0] > _LONGEST
    if isinstance(sign, ast.Mod) and isinstance(left, str):
        return bool(re.search(r"%[^a-zA-Z]*(\*|[0-9]{5})", left))
    if isinstance(sign, ast.Pow):
        return any(number > 1_000 for number in numbers)
    return sum(texts) > _LONGEST or any(number.bit_length() > _LONGEST for number in numbers)


def _arguments(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from filter(None, (arguments.vararg, arguments.kwarg))


def _copied(value: Any) -> Any:
    """A container as it is now: what is changed later is not what was passed."""
    return value.copied() if isinstance(value, Row | Items) else value


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return is_known(one) and is_known(other) and type(one) is type(other) and bool(one == other)


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
