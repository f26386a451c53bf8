//! One block of guest code as host code: entry and exits, flags, addresses. [`super::select`] adds the instructions.
//!
//! Between blocks the guest's arithmetic flags are in the frame, always exact. Inside a block they stay in the
//! host's flags until something needs those for itself (a TLB check, the end of the block).

use crate::operand::gpr_of;
use crate::translate::asm::{ABOVE, Asm, EQUAL, Forward, NOT_EQUAL, R15, RAX, RBP, SIGN};
use crate::translate::entry::at;
use crate::translate::fast::jump_index;
use crate::translate::thunks::{Exit, Thunks};
use crate::translate::vectors::{Copying, FLOATING};
use crate::translate::{HOST, select};
use iced_x86::{
    Decoder, DecoderError, DecoderOptions, Encoder, FlowControl, Instruction, Mnemonic, Register,
};

/// Instructions of a block at most; a budget check subtracts them as a signed byte.
const LONGEST: usize = 64;
/// Bytes that their code can have at most.
pub const BYTES: usize = LONGEST * 15;
/// Instructions of a loop's rounds at most, when several are one block.
const UNROLLED: usize = 32;
/// Forward branches that a block goes on behind.
const SIDE_EXITS: usize = 6;
/// Guest RSP's host register.
pub const STACK: u8 = 11;

/// The instruction is left to the interpreter.
pub struct Unsupported;
pub type Done = Result<(), Unsupported>;

/// What an instruction does to the block.
pub enum Step {
    Next,
    /// The block ends with it; it went to all its targets.
    End,
}

/// Where the guest code of a block comes from.
pub struct Source<'a> {
    /// From the block's first byte on, to the end of the page or [`BYTES`].
    pub bytes: &'a [u8],
    /// The linear address of the page, and the block's offset in it.
    pub page: u64,
    pub offset: usize,
    pub version: u32,
    pub version_address: u64,
}

/// What translations use one after the other.
pub struct Tools {
    encoder: Encoder,
    code: Vec<u8>,
    insns: Vec<Instruction>,
    stubs: Vec<Stub>,
}

impl Tools {
    pub fn new() -> Tools {
        Tools {
            encoder: Encoder::new(64),
            code: Vec::new(),
            insns: Vec::new(),
            stubs: Vec::new(),
        }
    }

    /// The code is not needed any more.
    pub fn reuse(&mut self, mut code: Vec<u8>) {
        code.clear();
        self.code = code;
    }
}

/// A translated block.
pub struct Translated {
    pub code: Vec<u8>,
    /// Where jumps from inside the page enter, relative to the start.
    pub inner: usize,
    /// Instructions.
    pub count: usize,
    /// Displacements that may lead to blocks of this page once these exist: page offset and address.
    pub links: Vec<(u16, u64)>,
    /// Instructions that the interpreter executes.
    pub sites: Vec<Draft>,
}

/// A [`Site`](super::site::Site) before it has its place.
#[derive(Clone, Copy)]
pub struct Draft {
    /// Where its address goes in the code.
    pub field: usize,
    pub rip: u64,
    /// Instructions of the block from this one on.
    pub rest: usize,
    /// The code of what follows; 0 when that has to be looked up.
    pub next: u64,
}

/// The state behind an instruction, for code that comes there by another way.
#[derive(Clone, Copy)]
struct After {
    code: u64,
    live: bool,
    loaded: u16,
    /// The guest's MXCSR is the host's.
    floating: bool,
}

enum Stub {
    /// A TLB miss in instruction number `done`.
    Miss {
        from: Forward,
        retry: u64,
        write: bool,
        rip: u64,
        done: usize,
        vectors: (u16, u16),
        after: Option<After>,
    },
    /// The interpreter takes over at instruction number `done`.
    Leave {
        from: Forward,
        rip: u64,
        done: usize,
        dirty: u16,
        after: Option<After>,
    },
    /// The guest's MXCSR is to be the host's in instruction number `done`.
    Floating {
        from: Forward,
        back: u64,
        rip: u64,
        done: usize,
        dirty: u16,
    },
    /// A branch to `target` taken after `done` instructions; what of the guest's flags and vector registers has yet to
    /// be put into the frame.
    Branch {
        from: Forward,
        target: u64,
        done: usize,
        saved: bool,
        clear_af: bool,
        dirty: u16,
    },
    /// The target of an indirect call that the jump cache does not know is in `SPARE`.
    Unknown { from: Forward },
}

pub struct Builder<'a> {
    pub asm: Asm,
    pub encoder: &'a mut Encoder,
    thunks: Thunks,
    page: u64,
    /// The block's own address, and where jumps from inside the page enter it.
    start: u64,
    alone: bool,
    inner: u64,
    stubs: Vec<Stub>,
    links: Vec<(u16, u64)>,
    sites: Vec<Draft>,
    /// The guest's flags are in the frame.
    saved: bool,
    /// The guest's flags are the host's.
    pub live: bool,
    /// They are, but for AF, which the host's processor sets as it likes and the interpreter clears.
    clear_af: bool,
    /// The instruction being translated: its address, and how many came before it.
    pub rip: u64,
    pub done: usize,
    side_exits: usize,
    /// Which vector instructions are copied.
    pub vectors: Copying,
    /// Guest vector registers that are in host registers, and those of them that changed.
    pub loaded: u16,
    pub dirty: u16,
    /// What is known to be usable.
    pub checked: u8,
}

/// Translates the block at `source`; `None` when there is nothing to translate: the first instruction cannot be decoded
/// here, or is the interpreter's and the block is to be `alone`.
/// `known` gives the inner address of blocks of the page. `alone`: the block is not to lead to itself either.
pub fn translate(
    source: &Source<'_>,
    base: u64,
    thunks: Thunks,
    tools: &mut Tools,
    known: &dyn Fn(u16) -> Option<u64>,
    alone: bool,
    vectors: Copying,
) -> Option<Translated> {
    let mut insns = core::mem::take(&mut tools.insns);
    decode(source, &mut insns, alone);
    let mut builder = Builder {
        asm: Asm::new(base, core::mem::take(&mut tools.code)),
        encoder: &mut tools.encoder,
        thunks,
        page: source.page,
        start: source.page + source.offset as u64,
        alone,
        inner: 0,
        stubs: core::mem::take(&mut tools.stubs),
        links: Vec::new(),
        sites: Vec::new(),
        saved: true,
        live: false,
        clear_af: false,
        rip: source.page + source.offset as u64,
        done: 0,
        side_exits: 0,
        vectors,
        loaded: 0,
        dirty: 0,
        checked: 0,
    };
    builder.version_check(source);
    let inner = builder.asm.code.len();
    builder.inner = builder.asm.here();
    let budget = builder.budget_check();
    let start = builder.rip;
    loop {
        if builder.done == LONGEST || builder.rip & !0xFFF != source.page {
            builder.flush_vectors();
            builder.save_flags();
            builder.go(builder.rip, known);
            break;
        }
        let mark = (
            builder.asm.code.len(),
            builder.stubs.len(),
            (builder.saved, builder.live, builder.clear_af),
            builder.links.len(),
            (builder.loaded, builder.dirty, builder.checked),
        );
        // What is cut off by the end of the page, too long or invalid is not there: the interpreter finds out.
        let Some((insn, rest)) = insns[builder.done..].split_first() else {
            if builder.done == 0 {
                return None;
            }
            builder.flush_vectors();
            builder.save_flags();
            builder.leave(builder.rip, 0, Exit::Interpret);
            break;
        };
        match select::instruction(&mut builder, insn, rest, known) {
            Ok(Step::Next) => {
                builder.done += 1;
                builder.rip = next_of(insn, rest);
                builder.reached(mark.1);
            }
            Ok(Step::End) => {
                builder.done += 1;
                break;
            }
            Err(Unsupported) => {
                if builder.done == 0 && alone {
                    return None;
                }
                builder.asm.code.truncate(mark.0);
                builder.stubs.truncate(mark.1);
                (builder.saved, builder.live, builder.clear_af) = mark.2;
                builder.links.truncate(mark.3);
                (builder.loaded, builder.dirty, builder.checked) = mark.4;
                builder.flush_vectors();
                builder.lose_flags();
                if alone {
                    builder.leave(builder.rip, 0, Exit::Interpret);
                    break;
                }
                builder.step(builder.rip, builder.done);
                builder.done += 1;
                if ends(insn) {
                    break;
                }
                builder.stepped();
                builder.rip = insn.next_ip();
            }
        }
    }
    let count = builder.done;
    builder.asm.code[budget.0] = count as u8;
    builder.stubs(count, known);
    builder.asm.bind(budget.1);
    builder.leave(start, count, Exit::Budget);
    for site in &mut builder.sites {
        site.rest = count - site.rest;
    }
    tools.stubs = builder.stubs;
    tools.insns = insns;
    Some(Translated {
        code: builder.asm.code,
        inner,
        count,
        links: builder.links,
        sites: builder.sites,
    })
}

/// Where a block goes on behind an instruction.
pub fn next_of(insn: &Instruction, rest: &[Instruction]) -> u64 {
    rest.first().map_or(insn.next_ip(), Instruction::ip)
}

/// Whether nothing follows an instruction that the interpreter executes: it branches, or always makes a VM exit.
fn ends(insn: &Instruction) -> bool {
    let flow = insn.flow_control();
    flow != FlowControl::Next && flow != FlowControl::ConditionalBranch
        || matches!(insn.mnemonic(), Mnemonic::Tdcall | Mnemonic::Hlt)
}

/// The instructions from the block's start in the order in which they are expected to run, as far as they may belong to
/// it: behind forward jumps, and several rounds of a short loop.
fn decode(source: &Source<'_>, insns: &mut Vec<Instruction>, alone: bool) {
    let start = source.page + source.offset as u64;
    let mut decoder = Decoder::with_ip(64, source.bytes, start, DecoderOptions::NONE);
    insns.clear();
    let mut round = None;
    while insns.len() < LONGEST && decoder.can_decode() {
        let insn = decoder.decode();
        if decoder.last_error() != DecoderError::None {
            break;
        }
        insns.push(insn);
        let followed = match insn.flow_control() {
            FlowControl::Next => continue,
            _ if alone || !select::leads_to_target(&insn) => None,
            FlowControl::ConditionalBranch if insn.near_branch64() == start => {
                let round = *round.get_or_insert(insns.len());
                (insns.len() + round <= UNROLLED).then_some(0)
            }
            FlowControl::UnconditionalBranch if insn.near_branch64() > insn.ip() => {
                Some((insn.near_branch64() - start) as usize)
            }
            _ => None,
        };
        match followed {
            Some(offset) if offset < source.bytes.len() => {
                decoder.set_ip(start + offset as u64);
                if decoder.set_position(offset).is_err() {
                    break;
                }
            }
            _ if insn.flow_control() == FlowControl::ConditionalBranch => {}
            _ => break,
        }
    }
}

/// Whether the memory operand's address is cut to 32 bits.
fn has_narrow_address(insn: &Instruction) -> bool {
    let (base, index) = (insn.memory_base(), insn.memory_index());
    base == Register::EIP
        || base.is_gpr32()
        || index.is_gpr32()
        || base == Register::None && index == Register::None && insn.memory_displ_size() == 4
}

impl Builder<'_> {
    /// The block begins with a look whether the page still has the bytes that were translated.
    fn version_check(&mut self, source: &Source<'_>) {
        self.asm.mov_imm(RAX, source.version_address);
        self.asm.bytes(&[0x81, 0x38]); // cmp dword [rax], version
        self.asm.u32(source.version);
        let same = self.asm.jump_forward_if(EQUAL);
        self.leave(self.rip, 0, Exit::Continue);
        self.asm.bind(same);
    }

    /// Takes the block's instructions off the budget; gives the offset of their number and the way out.
    fn budget_check(&mut self) -> (usize, Forward) {
        self.asm.alu_field_imm(5, at::BUDGET, 1);
        let count = self.asm.code.len() - 1;
        (count, self.asm.jump_forward_if(SIGN))
    }

    /// Leaves at `rip`, giving `refund` instructions back. The flags have to be saved.
    fn leave(&mut self, rip: u64, refund: usize, exit: Exit) {
        if refund != 0 {
            self.asm.alu_field_imm(0, at::BUDGET, refund as i32);
        }
        self.asm.mov_imm(RAX, rip);
        self.asm.jump(self.thunks.exits[exit as usize]);
    }

    // ---- the interpreter ----

    /// The interpreter executes the instruction at `rip`, before which `done` others were. The flags have to be saved.
    fn step(&mut self, rip: u64, done: usize) {
        self.asm.bytes(&[0x48, 0xB8]); // mov rax, the site's address
        self.sites.push(Draft {
            field: self.asm.code.len(),
            rip,
            rest: done,
            next: 0,
        });
        self.asm.bytes(&[0; 8]);
        self.asm.jump(self.thunks.step);
    }

    /// The interpreter comes back here when the instruction just stepped leads to the next one.
    fn stepped(&mut self) {
        if let Some(site) = self.sites.last_mut() {
            site.next = self.asm.here();
        }
        self.loaded = 0;
        self.checked = 0;
    }

    /// The instruction whose stubs begin at number `from` is done: where its stubs come back to.
    fn reached(&mut self, from: usize) {
        let here = After {
            code: self.asm.here(),
            live: self.live,
            loaded: self.loaded,
            floating: self.checked & FLOATING != 0,
        };
        for stub in &mut self.stubs[from..] {
            if let Stub::Miss { after, .. } | Stub::Leave { after, .. } = stub {
                *after = Some(here);
            }
        }
    }

    /// The same from a stub: what was executed there comes back to `after`.
    fn interpret(&mut self, rip: u64, done: usize, count: usize, after: Option<After>) {
        if self.alone {
            self.leave(rip, count - done, Exit::Interpret);
            return;
        }
        self.step(rip, done);
        if let Some(after) = after {
            self.stepped();
            self.load_vectors(after.loaded);
            if after.floating {
                // Only LDMXCSR changes the masks, and does not claim this.
                self.asm.call(self.thunks.floating);
            }
            if after.live {
                (self.saved, self.live, self.clear_af) = (true, false, false);
                self.restore_flags();
            }
            self.asm.jump(after.code);
        }
    }

    // ---- flags ----

    /// Puts the flags into the frame, unless they are there. RAX is lost; the host's flags may be.
    pub fn save_flags(&mut self) {
        if !self.saved {
            self.asm.bytes(&[0x9F, 0x0F, 0x90, 0xC0]); // lahf; seto al
            if self.clear_af {
                self.asm.bytes(&[0x80, 0xE4, 0xEF]); // and ah, ~AF
                self.live = false;
                self.clear_af = false;
            }
            self.asm.bytes(&[0x89, 0x45, at::FLAGS as u8]); // mov [rbp + FLAGS], eax
            self.saved = true;
        }
    }

    /// Makes the guest's flags the host's, unless they are. RAX is lost.
    pub fn restore_flags(&mut self) {
        if self.clear_af {
            self.save_flags();
        }
        if !self.live {
            self.asm.bytes(&[0x8B, 0x45, at::FLAGS as u8]); // mov eax, [rbp + FLAGS]
            self.asm.bytes(&[0x04, 0x7F, 0x9E]); // add al, 0x7F; sahf
            self.live = true;
        }
    }

    /// The host's flags are about to be lost.
    pub fn lose_flags(&mut self) {
        self.save_flags();
        self.live = false;
    }

    /// The guest instruction just emitted wrote flags.
    pub fn wrote_flags(&mut self) {
        self.live = true;
        self.saved = false;
        self.clear_af = false;
    }

    /// The same by a shift, which leaves AF clear for the guest.
    pub fn shifted_flags(&mut self) {
        self.wrote_flags();
        self.clear_af = true;
    }

    /// The flags were written to the frame instead.
    pub fn stored_flags(&mut self) {
        self.live = false;
        self.saved = true;
        self.clear_af = false;
    }

    // ---- memory ----

    /// A register's value in a host register; loaded into `spare` when it has none of its own.
    pub fn value(&mut self, guest: u8, spare: u8) -> u8 {
        match HOST[usize::from(guest & 15)] {
            Some(host) => host,
            None => {
                self.asm.get(spare, at::gpr(guest));
                spare
            }
        }
    }

    /// Writes a guest register.
    pub fn set(&mut self, guest: u8, from: u8) {
        match HOST[usize::from(guest & 15)] {
            Some(host) => self.asm.mov(host, from),
            None => self.asm.put(at::gpr(guest), from),
        }
    }

    /// The linear address of the memory operand in R15. RAX may be lost, and so may be the host's flags.
    fn linear(&mut self, insn: &Instruction) -> Done {
        self.effective(insn, R15)?;
        self.add_segment(insn);
        Ok(())
    }

    /// Adds the segment's base to R15. The host's flags are lost.
    pub fn add_segment(&mut self, insn: &Instruction) {
        match insn.memory_segment() {
            Register::FS => self.asm.op_memory(0x03, R15, RBP, at::FS_BASE),
            Register::GS => self.asm.op_memory(0x03, R15, RBP, at::GS_BASE),
            _ => {}
        }
    }

    /// The effective address in `to`, which is R15 or a register that the address does not use. Flags stay.
    pub fn effective(&mut self, insn: &Instruction, to: u8) -> Done {
        if insn.is_ip_rel_memory_operand() {
            self.asm.mov_imm(to, insn.ip_rel_memory_address());
            return Ok(());
        }
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let narrow = has_narrow_address(insn);
        let guest = |register: Register| match register {
            Register::None => Ok(None),
            _ if register.is_gpr64() || register.is_gpr32() => Ok(Some(gpr_of(register).0)),
            _ => Err(Unsupported),
        };
        let (base, index) = (guest(base)?, guest(index)?);
        let displacement = insn.memory_displacement64();
        if base.is_none() && index.is_none() {
            if insn.memory_displ_size() < 4 {
                return Err(Unsupported);
            }
            self.asm.mov_imm(to, displacement);
            return Ok(());
        }
        let displacement = if narrow {
            displacement as i32
        } else {
            i32::try_from(displacement as i64).map_err(|_| Unsupported)?
        };
        let base = base.map(|base| self.value(base, R15));
        let spare = if base == Some(R15) { RAX } else { R15 };
        let index = index.map(|index| {
            let scale = insn.memory_index_scale().trailing_zeros() as u8;
            (self.value(index, spare), scale)
        });
        self.asm.lea(to, base, index, displacement);
        if narrow {
            self.asm.cut(to);
        }
        Ok(())
    }

    /// The host address of the instruction's memory operand in R15. RAX and the host's flags are lost.
    pub fn operand(&mut self, insn: &Instruction, write: bool, size: usize) -> Done {
        self.lose_flags();
        let retry = self.asm.here();
        self.linear(insn)?;
        self.check(retry, write, size);
        Ok(())
    }

    /// The same for the unit of `size` bytes that holds the bit whose number, from the operand's first bit, is in a guest
    /// register.
    pub fn bit_operand(
        &mut self,
        insn: &Instruction,
        number: u8,
        write: bool,
        size: usize,
    ) -> Done {
        self.lose_flags();
        let retry = self.asm.here();
        self.effective(insn, R15)?;
        let host = self.value(number, RAX);
        self.asm.sign_extend(RAX, host, size);
        let scale = size.trailing_zeros() as u8;
        self.asm.bytes(&[0x48, 0xC1, 0xF8, 3 + scale]); // sar rax, log2 of the unit's bits
        self.asm.lea(R15, Some(R15), Some((RAX, scale)), 0);
        if has_narrow_address(insn) {
            self.asm.cut(R15);
        }
        self.add_segment(insn);
        self.check(retry, write, size);
        Ok(())
    }

    /// The host address of `size` bytes at guest RSP + `displacement` in R15.
    pub fn stack(&mut self, displacement: i32, write: bool, size: usize) {
        self.lose_flags();
        let retry = self.asm.here();
        self.asm.lea(R15, Some(STACK), None, displacement);
        self.check(retry, write, size);
    }

    /// From the linear address in R15 to the host's, or out.
    pub fn check(&mut self, retry: u64, write: bool, size: usize) {
        self.asm.bytes(&[0xC4, 0xC3, 0xFB, 0xF0, 0xC7, 8]); // rorx rax, r15, 8
        self.asm.bytes(&[0x25, 0xF0, 0x3F, 0, 0]); // and eax, 0x3FF0: the set, times 16
        let field = if write { at::WRITE } else { at::READ };
        self.asm.op_memory(0x03, RAX, RBP, field);
        // What remains of the address is the offset when the page is the same; the last byte has to be in it too.
        self.asm.op_memory(0x33, R15, RAX, 0);
        self.asm.alu_imm(7, R15, 4096 - size as i32);
        let from = self.asm.jump_forward_if(ABOVE);
        self.asm.op_memory(0x03, R15, RAX, 8);
        self.stubs.push(Stub::Miss {
            from,
            retry,
            write,
            rip: self.rip,
            done: self.done,
            vectors: (self.loaded, self.dirty),
            after: None,
        });
    }

    /// The interpreter takes over when the condition holds. The flags have to be saved.
    pub fn leave_if(&mut self, condition: u8) {
        let from = self.asm.jump_forward_if(condition);
        self.stubs.push(Stub::Leave {
            from,
            rip: self.rip,
            done: self.done,
            dirty: self.dirty,
            after: None,
        });
    }

    /// The guest's MXCSR is the host's from here on, or the interpreter takes over. The flags have to be saved.
    pub fn enter_floating(&mut self) {
        self.asm.field_bits(0xF6, 0, at::USABLE, FLOATING); // test
        let from = self.asm.jump_forward_if(EQUAL);
        self.stubs.push(Stub::Floating {
            from,
            back: self.asm.here(),
            rip: self.rip,
            done: self.done,
            dirty: self.dirty,
        });
    }

    /// Calls fixed code.
    pub fn call(&mut self, thunk: fn(&Thunks) -> u64) {
        self.asm.call(thunk(&self.thunks));
    }

    // ---- branches ----

    fn same_page(&self, target: u64) -> bool {
        target & !0xFFF == self.page
    }

    fn known(&self, target: u64, known: &dyn Fn(u16) -> Option<u64>) -> Option<u64> {
        if target == self.start && !self.alone {
            return Some(self.inner);
        }
        known((target & 0xFFF) as u16)
    }

    /// Goes to a block at a known address. The flags have to be saved.
    pub fn go(&mut self, target: u64, known: &dyn Fn(u16) -> Option<u64>) {
        if self.same_page(target) {
            if let Some(inner) = self.known(target, known) {
                self.asm.jump(inner);
                return;
            }
            let link = self.asm.jump_forward();
            self.links
                .push(((target & 0xFFF) as u16, self.asm.site(link)));
            self.asm.bind(link);
            self.leave(target, 0, Exit::Continue);
            return;
        }
        let place = (jump_index(target) * 32) as i32;
        self.asm.get(RAX, at::JUMPS);
        self.asm.mov_imm(R15, target);
        self.asm.op_memory(0x3B, R15, RAX, place);
        let other = self.asm.jump_forward_if(NOT_EQUAL);
        self.asm.get(R15, at::CONTEXT);
        self.asm.op_memory(0x3B, R15, RAX, place + 16);
        let void = self.asm.jump_forward_if(NOT_EQUAL);
        self.asm.bytes(&[0xFF, 0xA0]); // jmp [rax + place + 8]
        self.asm.bytes(&(place + 8).to_le_bytes());
        self.asm.bind(other);
        self.asm.bind(void);
        self.leave(target, 0, Exit::Continue);
    }

    /// A conditional branch on the host's flags. True when the block may go on behind it, with the flags and the
    /// vector registers as they were; otherwise they are put into the frame.
    pub fn branch_if(
        &mut self,
        condition: u8,
        target: u64,
        known: &dyn Fn(u16) -> Option<u64>,
    ) -> bool {
        let goes_on = target > self.rip && self.side_exits < SIDE_EXITS;
        if goes_on {
            self.side_exits += 1;
        } else {
            self.flush_vectors();
            if self.live && !self.saved {
                self.save_flags();
                self.restore_flags();
            }
        }
        if !goes_on
            && self.same_page(target)
            && let Some(inner) = self.known(target, known)
        {
            self.asm.jump_if(condition, inner);
            return false;
        }
        if !goes_on && self.same_page(target) {
            let from = self.asm.jump_forward_if(condition);
            self.links
                .push(((target & 0xFFF) as u16, self.asm.site(from)));
            self.stub_branch(from, target);
        } else {
            self.leave_block_if(condition, target);
        }
        goes_on
    }

    /// Leaves the block for `target` when the condition holds for the host's flags. What is not in the frame is put there
    /// on that way only.
    pub fn leave_block_if(&mut self, condition: u8, target: u64) {
        let from = self.asm.jump_forward_if(condition);
        self.stub_branch(from, target);
    }

    fn stub_branch(&mut self, from: Forward, target: u64) {
        self.stubs.push(Stub::Branch {
            from,
            target,
            done: self.done + 1,
            saved: self.saved,
            clear_af: self.clear_af,
            dirty: self.dirty,
        });
    }

    /// Looks the address in R15 up in the jump cache: its entry in RAX, or out by `miss`. The flags have to be
    /// saved.
    pub fn look_up(&mut self) -> [Forward; 2] {
        self.asm.put(at::SPARE, R15);
        self.asm.bytes(&[0x44, 0x89, 0xF8]); // mov eax, r15d
        self.asm.bytes(&[0xC1, 0xE8, 6]); // shr eax, 6
        self.asm.bytes(&[0x44, 0x31, 0xF8]); // xor eax, r15d
        self.asm.bytes(&[0x83, 0xE0, 63]); // and eax, 63
        self.asm.bytes(&[0x41, 0xC1, 0xEF, 6]); // shr r15d, 6
        self.asm.bytes(&[0x41, 0x81, 0xE7, 0xC0, 0x3F, 0, 0]); // and r15d, 0x3FC0
        self.asm.bytes(&[0x44, 0x09, 0xF8]); // or eax, r15d
        self.asm.bytes(&[0xC1, 0xE0, 5]); // shl eax, 5
        self.asm.op_memory(0x03, RAX, RBP, at::JUMPS);
        self.asm.get(R15, at::SPARE);
        self.asm.op_memory(0x3B, R15, RAX, 0);
        let other = self.asm.jump_forward_if(NOT_EQUAL);
        self.asm.get(R15, at::CONTEXT);
        self.asm.op_memory(0x3B, R15, RAX, 16);
        [other, self.asm.jump_forward_if(NOT_EQUAL)]
    }

    /// Jumps to the entry that `look_up` found.
    pub fn jump_found(&mut self) {
        self.asm.bytes(&[0xFF, 0x60, 8]); // jmp [rax + 8]
    }

    /// The interpreter executes the instruction when the look-up failed.
    pub fn interpret_at(&mut self, misses: [Forward; 2]) {
        for from in misses {
            self.stubs.push(Stub::Leave {
                from,
                rip: self.rip,
                done: self.done,
                dirty: self.dirty,
                after: None,
            });
        }
    }

    /// Goes on at the address in SPARE when the look-up failed.
    pub fn continue_at(&mut self, misses: [Forward; 2]) {
        for from in misses {
            self.stubs.push(Stub::Unknown { from });
        }
    }

    /// What is rarely executed, behind the block. `count`: instructions of the block.
    fn stubs(&mut self, count: usize, known: &dyn Fn(u16) -> Option<u64>) {
        let mut stubs = std::mem::take(&mut self.stubs);
        for stub in stubs.drain(..) {
            match stub {
                Stub::Miss {
                    from,
                    retry,
                    write,
                    rip,
                    done,
                    vectors: (loaded, dirty),
                    after,
                } => {
                    self.asm.bind(from);
                    self.asm.op_memory(0x33, R15, RAX, 0); // the linear address again
                    self.store_vectors(dirty);
                    self.asm.call(match write {
                        true => self.thunks.fill_write,
                        false => self.thunks.fill_read,
                    });
                    self.asm.bytes(&[0x85, 0xC0]); // test eax, eax
                    if loaded == 0 {
                        self.asm.jump_if(NOT_EQUAL, retry);
                    } else {
                        let failed = self.asm.jump_forward_if(EQUAL);
                        self.load_vectors(loaded);
                        self.asm.jump(retry);
                        self.asm.bind(failed);
                    }
                    self.interpret(rip, done, count, after);
                }
                Stub::Leave {
                    from,
                    rip,
                    done,
                    dirty,
                    after,
                } => {
                    self.asm.bind(from);
                    self.store_vectors(dirty);
                    self.interpret(rip, done, count, after);
                }
                Stub::Floating {
                    from,
                    back,
                    rip,
                    done,
                    dirty,
                } => {
                    self.asm.bind(from);
                    self.asm.call(self.thunks.floating);
                    self.asm.jump_if(EQUAL, back);
                    self.store_vectors(dirty);
                    self.interpret(rip, done, count, None);
                }
                Stub::Branch {
                    from,
                    target,
                    done,
                    saved,
                    clear_af,
                    dirty,
                } => {
                    self.asm.bind(from);
                    self.store_vectors(dirty);
                    (self.saved, self.live, self.clear_af) = (saved, !saved, clear_af);
                    self.save_flags();
                    if count != done {
                        self.asm.alu_field_imm(0, at::BUDGET, (count - done) as i32);
                    }
                    self.go(target, known);
                }
                Stub::Unknown { from } => {
                    self.asm.bind(from);
                    self.asm.get(RAX, at::SPARE);
                    self.asm.jump(self.thunks.exits[Exit::Continue as usize]);
                }
            }
        }
        self.stubs = stubs;
    }
}
