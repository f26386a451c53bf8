//! One block of guest code as host code: which instructions belong to it, the interpreter in between, flags.
//! [`super::select`] adds the instructions.
//!
//! Between blocks the guest's arithmetic flags are in the frame, always exact. Inside a block they stay in the
//! host's flags until something needs those for itself (a TLB check, the end of the block).

mod branches;
mod memory;
mod stubs;

use crate::translate::asm::{Asm, EQUAL, Forward, RAX, SIGN};
use crate::translate::entry::at;
use crate::translate::select;
use crate::translate::thunks::{Exit, Thunks};
use crate::translate::vectors::{Copying, FLOATING};
use iced_x86::{
    Decoder, DecoderError, DecoderOptions, Encoder, FlowControl, Instruction, Mnemonic,
};
use stubs::Stub;

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
}
