//! What is rarely executed, behind the block's code: misses, the interpreter, branches out of the middle.

use super::{After, Builder};
use crate::translate::asm::{EQUAL, Forward, NOT_EQUAL, R15, RAX};
use crate::translate::entry::at;
use crate::translate::thunks::Exit;

/// A way out of the block, and what has to be known for it.
pub enum Stub {
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

impl Builder<'_> {
    /// What is rarely executed, behind the block. `count`: instructions of the block.
    pub(super) fn stubs(&mut self, count: usize, known: &dyn Fn(u16) -> Option<u64>) {
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
