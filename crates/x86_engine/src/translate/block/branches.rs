//! Where a block goes on: other blocks of the page, other pages, the jump cache.

use super::{Builder, SIDE_EXITS, Stub};
use crate::translate::asm::{Forward, NOT_EQUAL, R15, RAX, RBP};
use crate::translate::entry::at;
use crate::translate::fast::jump_index;
use crate::translate::thunks::Exit;

impl Builder<'_> {
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
}
