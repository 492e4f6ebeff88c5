"""An ExecuTorch program under construction: values, instructions, delegates, and the memory plan.

Written instruction by instruction in the terms of ExecuTorch's own schema (exir/schema.py) rather than emitted from a
graph, for two things that emission cannot express. Recurrent state is double-buffered: a step reads one buffer, writes
the other, and the last instructions exchange the two handles (`MoveCall`), so that no state is ever copied back, and a
call that fails half-way leaves the state as it was. And constants may share bytes with a delegate's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from executorch.exir import schema
from executorch.exir.scalar_type import ScalarType
from numpy.typing import NDArray

from export.executorch_lowering.tensors import Element, Shape, Value, is_dynamic
from export.executorch_lowering.xnnpack import Blob, Region, blob_of

XNNPACK = "XnnpackBackend"
ALIGNMENT = 64
FIRST_ARENA = 1  # index of a planned buffer; 0 is reserved
OVERREAD_BYTES = 128  # XNNPACK kernels may read past the end of a tensor


@dataclass(frozen=True)
class Slot:
    """A value that an instruction fills with an integer or a truth value."""

    index: int


Argument = Value | Slot | int | float | bool | None


Read = Callable[
    [], NDArray[Any]
]  # the bytes, read when they are written: a file of any size costs one matrix of memory


@dataclass
class Constant:
    """A tensor whose bytes are in the file; `shared` names the same bytes in the named data."""

    num_bytes: int
    read: Read
    shared: Blob | None = None


@dataclass(frozen=True)
class Call:
    """A kernel or a delegate at its place in the program."""

    instruction: schema.Instruction
    reads: tuple[Value, ...] = ()
    writes: tuple[Value, ...] = ()
    region: Region | None = None


@dataclass
class ProgramBuilder:
    """One method; methods of one file share `constants` and `named`.

    Each has an arena of its own: ExecuTorch's Module gives methods separate memory, its Python binding gives arenas of
    one number to all methods of a program, and state must survive both.
    """

    name: str = "forward"
    arena: int = FIRST_ARENA
    values: list[schema.EValue] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    operators: list[schema.Operator] = field(default_factory=list)
    tensors: dict[Value, schema.Tensor] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    persistent: list[Value] = field(default_factory=list)
    aliases: dict[Value, Value] = field(default_factory=dict)
    constants: list[Constant] = field(default_factory=list)
    named: dict[Blob, Read] = field(default_factory=dict)
    region: Region | None = None
    regions: list[Region] = field(default_factory=list)
    numbers: dict[tuple[type, object], int] = field(default_factory=dict)
    loops: list[tuple[int, int]] = field(default_factory=list)  # first and last call of each

    def beside(self, name: str) -> "ProgramBuilder":
        """Another method of the same file."""
        return ProgramBuilder(name=name, arena=self.arena + 1, constants=self.constants, named=self.named)

    # -- values ------------------------------------------------------------------------------------------------------

    def tensor(self, shape: Shape, element: Element = Element.FLOAT32) -> Value:
        """A tensor of the program that a kernel will write."""
        value = Value(shape=shape, element=element)
        self._declare(value)
        return value

    def input(self, shape: Shape, element: Element) -> Value:
        """The next argument of the method."""
        value = self.tensor(shape, element)
        self.inputs.append(value)
        return value

    def state(self, name: str, shape: Shape) -> Value:
        """A float32 tensor that lives from call to call; `Method.get_attribute(name)` finds it."""
        value = self.tensor(shape)
        self.tensors[value].extra_tensor_info = schema.ExtraTensorInfo(fully_qualified_name=name)
        return self.keep(value)

    def keep(self, value: Value) -> Value:
        """Give the tensor memory of its own for the whole life of the method."""
        self.persistent.append(value)
        return value

    def alias(self, value: Value, shape: Shape) -> Value:
        """The start of a tensor's memory under another shape."""
        other = self.tensor(shape, value.element)
        self.require(value)
        self.aliases[other] = value
        return other

    def constant(self, data: NDArray[Any], element: Element) -> Value:
        """A tensor whose bytes are in the file."""
        return self._constant(data.shape, element, Constant(data.nbytes, lambda: data))

    def shared_constant(self, blob: Blob, shape: Shape, element: Element) -> Value:
        """A tensor that has the bytes of a delegate's weights."""
        return self._constant(shape, element, Constant(blob.num_bytes, self.named[blob], blob))

    def number(self, number: int | float | bool | None) -> int:
        """Index of a constant that is no tensor."""
        key = (type(number), number)
        if key not in self.numbers:
            kinds = {bool: schema.Bool, int: schema.Int, float: schema.Double}
            content = schema.Null() if number is None else kinds[type(number)](number)
            self.numbers[key] = self._append(content)
        return self.numbers[key]

    def named_data(self, data: NDArray[Any]) -> Blob:
        """Put a small array into the named data, which delegates read by key."""
        blob = blob_of(data)
        self.named.setdefault(blob, lambda: data)
        return blob

    def named_later(self, blob: Blob, read: Read) -> Blob:
        """Put bytes into the named data that are read when the file is written."""
        self.named.setdefault(blob, read)
        return blob

    # -- instructions ------------------------------------------------------------------------------------------------

    def open_region(self) -> Region:
        """The XNNPACK graph that takes further operators."""
        if self.region is None:
            self.region = Region(self.named_data)
            self.regions.append(self.region)
        return self.region

    def close_region(self) -> None:
        """Call the open XNNPACK graph here."""
        if self.region is not None:
            call = schema.DelegateCall(delegate_index=self.regions.index(self.region), args=[])
            self.calls.append(Call(schema.Instruction(call), region=self.region))
            self.region = None

    def kernel(self, name: str, overload: str, args: Sequence[Argument], outs: Sequence[Value]) -> None:
        """Call an out-variant kernel: its arguments, its outputs, and what it returns (the outputs again)."""
        reads = tuple(arg for arg in args if isinstance(arg, Value))
        indices = [self._index(arg) for arg in args]
        results = [self.require(value) for value in outs]
        returned = results if len(results) == 1 else [self._append(schema.TensorList(results))]
        self._kernel_call(name, overload, [*indices, *results, *returned], reads, tuple(outs))

    def primitive(self, name: str, overload: str, args: Sequence[Argument]) -> Slot:
        """Compute an integer or a truth value."""
        reads = tuple(arg for arg in args if isinstance(arg, Value))
        result = Slot(self._append(schema.Int(0)))
        self._kernel_call(name, overload, [*(self._index(arg) for arg in args), result.index], reads, ())
        return result

    def assign(self, slot: Slot, name: str, overload: str, args: Sequence[Argument]) -> None:
        """Compute a number again into the place of an earlier one."""
        self._kernel_call(name, overload, [*(self._index(arg) for arg in args), slot.index], (), ())

    def integers(self, numbers: Sequence[Slot | int]) -> Slot:
        """A list of integers, some of them computed before, as kernels take sizes."""
        return Slot(self._append(schema.IntList([self._index(number) for number in numbers])))

    def call(self, region: Region, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        """Call a graph that many calls share; an output may be an input too, where the graph reads it before."""
        for value in inputs:
            self.require(value)
        indices = [self.require(value) for value in (*inputs, *outputs)]
        instruction = schema.DelegateCall(delegate_index=self.regions.index(region), args=indices)
        self.calls.append(Call(schema.Instruction(instruction), tuple(inputs), tuple(outputs)))

    def shared_region(self) -> Region:
        """A graph that is called explicitly, by `call`."""
        region = Region(self.named_data)
        self.regions.append(region)
        return region

    @contextmanager
    def only_if(self, condition: Slot, wanted: bool) -> Iterator[None]:
        """Instructions that run where the truth value is as wanted."""
        jump = schema.JumpFalseCall(cond_value_index=condition.index, destination_instruction=0)
        if not wanted:
            self.calls.append(Call(schema.Instruction(schema.JumpFalseCall(condition.index, len(self.calls) + 2))))
            jump.cond_value_index = self.number(False)
        self.calls.append(Call(schema.Instruction(jump)))
        yield
        jump.destination_instruction = len(self.calls)

    def begin_loop(self) -> int:
        """The place to which `end_loop` goes back."""
        self.close_region()
        return len(self.calls)

    def end_loop(self, start: int, done: Slot) -> None:
        """Run everything since `start` again until `done` holds."""
        self.close_region()
        self.calls.append(Call(schema.Instruction(schema.JumpFalseCall(done.index, start))))
        self.loops.append((start, len(self.calls) - 1))

    def move(self, source: Value, target: Value) -> None:
        """Let `target` stand for the same tensor as `source` from here on."""
        instruction = schema.MoveCall(move_from=self.require(source), move_to=self.require(target))
        self.calls.append(Call(schema.Instruction(instruction), (source,), (target,)))

    def clear_if(self, condition: Slot, states: Sequence[Value]) -> None:
        """Where the condition holds, fill the states with zeros, whatever is in them (also NaN)."""
        with self.only_if(condition, wanted=True):
            for state in states:
                sizes = self._append(schema.IntList([self.number(int(size)) for size in state.shape]))
                self._kernel_call("aten::zeros", "out", [sizes, *[self.require(state)] * 2], (), (state,))

    def exchange(self, pairs: Sequence[tuple[Value, Value]]) -> None:
        """Swap the handles of each pair: what was written becomes what the next call reads."""
        spare = self._append(schema.Null())
        for old, new in pairs:
            for source, target in ((old, None), (new, old), (None, new)):
                move = schema.MoveCall(
                    move_from=spare if source is None else self.require(source),
                    move_to=spare if target is None else self.require(target),
                )
                self.calls.append(Call(schema.Instruction(move)))

    def require(self, value: Value) -> int:
        """Index of a tensor for the program; a value made in a region becomes one of the delegate's outputs."""
        if value.program_id is None:
            assert value.region is not None
            if value.region is self.region:
                self.close_region()
            value.region.hand_out(value)
            self._declare(value)
        assert value.program_id is not None
        return value.program_id

    def finish(self, output: Value) -> None:
        """Close the last region and hand out every value that crosses from one region to another."""
        self.close_region()
        self.require(output)
        for call in self.calls:
            for value in call.region.inputs if call.region else ():
                self.require(value)
        self._load_largest_first()

    # -- the finished method -----------------------------------------------------------------------------------------

    def plan(self, output: Value, segments: Sequence[int]) -> schema.ExecutionPlan:
        """Fill in delegate arguments, plan memory, and return the method; `segments` hold the regions' payloads."""
        calls = [self._with_arguments(call) for call in self.calls]
        num_bytes = self._plan_memory(calls, [*self.inputs, output])
        return schema.ExecutionPlan(
            name=self.name,
            container_meta_type=schema.ContainerMetadata(encoded_inp_str="", encoded_out_str=""),
            values=self.values,
            inputs=[self.require(value) for value in self.inputs],
            outputs=[self.require(output)],
            chains=[_chain([call.instruction for call in calls])],
            operators=self.operators,
            delegates=[self._delegate(segment) for segment in segments],
            non_const_buffer_sizes=[*[0] * self.arena, num_bytes],
        )

    def _load_largest_first(self) -> None:
        """Number the regions by falling size of their weights.

        A runtime opens delegates in this order, and while it packs one it holds that one's weights twice, as the file
        has them and packed. With the head first, nothing else is packed yet when that costs the most.
        """
        order = sorted(range(len(self.regions)), key=lambda index: -self.regions[index].num_bytes)
        places = {old: new for new, old in enumerate(order)}
        for call in self.calls:
            if isinstance(call.instruction.instr_args, schema.DelegateCall):
                call.instruction.instr_args.delegate_index = places[call.instruction.instr_args.delegate_index]
        self.regions = [self.regions[index] for index in order]

    def _with_arguments(self, call: Call) -> Call:
        if call.region is None:
            return call
        assert isinstance(call.instruction.instr_args, schema.DelegateCall)
        arguments = [*call.region.inputs, *call.region.outputs]
        call.instruction.instr_args.args = [self.require(value) for value in arguments]
        return Call(call.instruction, tuple(call.region.inputs), tuple(call.region.outputs), call.region)

    def _plan_memory(self, calls: Sequence[Call], kept: Sequence[Value]) -> int:
        """Place every tensor in one arena, largest first, at the lowest offset that is free during its life."""
        lives: dict[Value, tuple[int, int]] = {value: (0, len(calls)) for value in (*self.persistent, *kept)}
        for moment, call in enumerate(calls):
            for value in (*call.reads, *call.writes):
                owner = self.aliases.get(value, value)
                if self.tensors[owner].data_buffer_idx == 0:
                    first, last = lives.get(owner, (moment, moment))
                    lives[owner] = (min(first, moment), max(last, moment))
        lives = {value: self._through_loops(life) for value, life in lives.items()}
        placed: list[tuple[int, int, tuple[int, int]]] = []  # offset, end, life
        for value in sorted(lives, key=lambda value: (-value.num_bytes, lives[value], value.program_id)):
            size = -(-value.num_bytes // ALIGNMENT) * ALIGNMENT
            first, last = lives[value]
            offset = 0
            for start, end, (born, died) in sorted(placed):
                if born <= last and first <= died:
                    if offset + size <= start:
                        break
                    offset = max(offset, end)
            placed.append((offset, offset + size, (first, last)))
            self.tensors[value].allocation_info = schema.AllocationDetails(
                memory_id=self.arena, memory_offset_low=offset & 0xFFFFFFFF, memory_offset_high=offset >> 32
            )
        for value, owner in self.aliases.items():
            self.tensors[value].allocation_info = self.tensors[owner].allocation_info
        return max(end for _, end, _ in placed) + OVERREAD_BYTES

    def _through_loops(self, life: tuple[int, int]) -> tuple[int, int]:
        """What was made before a loop and is read in it is read again in the next round."""
        first, last = life
        return first, max([last, *(end for start, end in self.loops if first < start <= last)])

    def _delegate(self, segment: int) -> schema.BackendDelegate:
        place = schema.BackendDelegateDataReference(location=schema.DataLocation.SEGMENT, index=segment)
        return schema.BackendDelegate(id=XNNPACK, processed=place, compile_specs=[])

    def _index(self, argument: Argument) -> int:
        if isinstance(argument, Value):
            return self.require(argument)
        return argument.index if isinstance(argument, Slot) else self.number(argument)

    def _kernel_call(
        self, name: str, overload: str, args: list[int], reads: tuple[Value, ...], writes: tuple[Value, ...]
    ) -> None:
        operator = schema.Operator(name=name, overload=overload)
        if operator not in self.operators:
            self.operators.append(operator)
        call = schema.KernelCall(op_index=self.operators.index(operator), args=args)
        self.calls.append(Call(schema.Instruction(call), reads, writes))

    def _constant(self, shape: Shape, element: Element, constant: Constant) -> Value:
        value = Value(shape=shape, element=element)
        self._declare(value)
        self.constants.append(constant)
        self.tensors[value].data_buffer_idx = len(self.constants)  # 0 means: not constant
        return value

    def _declare(self, value: Value) -> None:
        tensor = schema.Tensor(
            scalar_type=ScalarType(value.element),
            storage_offset=0,
            sizes=[int(size) for size in value.shape],
            dim_order=list(range(len(value.shape))),
            requires_grad=False,
            layout=0,
            data_buffer_idx=0,
            allocation_info=None,
            shape_dynamism=schema.TensorShapeDynamism.DYNAMIC_BOUND
            if is_dynamic(value.shape)
            else schema.TensorShapeDynamism.STATIC,
        )
        self.tensors[value] = tensor
        value.program_id = self._append(tensor)

    def _append(self, content: schema.KernelTypes) -> int:
        self.values.append(schema.EValue(content))
        return len(self.values) - 1


def getter(name: str, numbers: Sequence[int | bool]) -> schema.ExecutionPlan:
    """A method without arguments that returns constants: how a runner reads metadata."""
    kinds = {bool: schema.Bool, int: schema.Int}
    values = [schema.EValue(kinds[type(number)](number)) for number in numbers]
    return schema.ExecutionPlan(
        name=name,
        container_meta_type=schema.ContainerMetadata(encoded_inp_str="", encoded_out_str=""),
        values=values,
        inputs=[],
        outputs=list(range(len(values))),
        chains=[_chain([])],
        operators=[],
        delegates=[],
        non_const_buffer_sizes=[0],
    )


def _chain(instructions: list[schema.Instruction]) -> schema.Chain:
    return schema.Chain(inputs=[], outputs=[], instructions=instructions, stacktrace=None)
