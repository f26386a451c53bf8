//! Programs for the machine: every code slot gets a few instructions and a way to go on, by choice of the input.
//!
//! R12 and R14 point to the data in either region, RSP to a stack, R13 counts loops; the other registers are free.

use super::input::Input;
use super::machine::{
    CODE_PAGES, DATA, KERNEL_CODE, KERNEL_CS, KERNEL_SS, KERNEL_STACK, PAGES, REGIONS, SLOT, SLOTS,
    TABLE, USER_CODE, USER_CS, USER_SS, USER_STACK, cr3, entry, frame,
};
use crate::flat::FlatGuest;

/// Bytes of a slot that instructions may take; what ends it comes behind.
const ROOM: usize = SLOT as usize - 96;
const FREE: [u8; 12] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 15];

/// Writes the program into the code pages.
pub(super) fn write(input: &mut Input<'_>, guest: &mut FlatGuest) {
    for slot in 0..8 {
        guest.put_u64(
            TABLE + slot * 8 - REGIONS[0] + frame(0, 0),
            target(input, false),
        );
        guest.put_u64(
            TABLE + 64 + slot * 8 - REGIONS[0] + frame(0, 0),
            target(input, true),
        );
    }
    for page in 0..CODE_PAGES {
        for slot in 0..SLOTS {
            let user = page >= USER_CODE;
            let offset = page * 0x1000 + slot * SLOT;
            let mut writer = Writer {
                input,
                user,
                start: REGIONS[0] + offset,
                code: vec![0x90; 8], // the end of an instruction that begins in the page before
            };
            writer.slot(slot == SLOTS - 1);
            let code = writer.code;
            assert!(code.len() <= SLOT as usize + 16, "{}", code.len());
            let inside = code.len().min(SLOT as usize);
            guest.put(frame(0, 0) + offset, &code[..inside]);
        }
    }
}

/// A code slot of that privilege, seldom of any.
fn target(input: &mut Input<'_>, user: bool) -> u64 {
    let first = if input.once_in(32) {
        input.below(2) * USER_CODE
    } else if user {
        USER_CODE
    } else {
        KERNEL_CODE
    };
    let page = match input.below(16) {
        15 => 20 + input.below(4),
        n => first + n % 4,
    };
    let region = REGIONS[usize::from(input.once_in(8))];
    region + page * 0x1000 + input.below(SLOTS) * SLOT
}

struct Writer<'a, 'b> {
    input: &'a mut Input<'b>,
    user: bool,
    /// The linear address of the slot in the first region.
    start: u64,
    code: Vec<u8>,
}

impl Writer<'_, '_> {
    fn put(&mut self, bytes: &[u8]) {
        self.code.extend(bytes);
    }
    fn put_u32(&mut self, value: u64) {
        self.code.extend((value as u32).to_le_bytes());
    }
    fn any(&mut self) -> u8 {
        self.input.byte()
    }
    fn free(&mut self) -> u8 {
        self.input.pick(&FREE)
    }
    fn target(&mut self) -> u64 {
        target(self.input, self.user)
    }

    /// REX, opcode and a ModRM byte with two registers.
    fn registers(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: u8) {
        self.code
            .push(0x40 | u8::from(wide) << 3 | reg >> 3 << 2 | rm >> 3);
        self.put(opcode);
        self.code.push(0xC0 | (reg & 7) << 3 | rm & 7);
    }

    /// The same with `[r12 + disp32]` or `[r14 + disp32]` in the data.
    fn memory(&mut self, wide: bool, opcode: &[u8], reg: u8) {
        let low = self.input.once_in(2);
        self.code.push(0x41 | u8::from(wide) << 3 | reg >> 3 << 2);
        self.put(opcode);
        if low {
            self.put(&[0x84 | (reg & 7) << 3, 0x24]);
        } else {
            self.put(&[0x86 | (reg & 7) << 3]);
        }
        self.displacement();
    }

    /// Somewhere in the data; seldom behind it.
    fn displacement(&mut self) {
        let near = self.input.below(8) * 0x1000;
        let offset = match self.input.below(8) {
            // Across two pages.
            7 => 0xFF9 + self.input.below(8),
            _ => u64::from(self.input.byte()) * 8,
        };
        let far = if self.input.once_in(64) { 0x9000 } else { 0 };
        self.put_u32(near + offset + far);
    }

    /// mov r64, imm64
    fn immediate(&mut self, register: u8, value: u64) {
        self.put(&[0x48 | register >> 3, 0xB8 | register & 7]);
        self.code.extend(value.to_le_bytes());
    }

    fn push(&mut self, value: u64) {
        self.code.push(0x68);
        self.put_u32(value);
    }

    fn slot(&mut self, last: bool) {
        for _ in 0..self.input.below(10) {
            if self.code.len() > ROOM {
                break;
            }
            self.instruction();
        }
        if last && self.input.once_in(2) {
            self.across_the_end();
        } else {
            self.end();
        }
    }

    fn instruction(&mut self) {
        match self.input.below(32) {
            0..=5 => {
                let (op, reg, rm) = (self.input.below(8) as u8, self.free(), self.free());
                let form = self.any();
                if form & 6 == 0 {
                    self.code.push(0x66);
                }
                self.registers(form & 8 != 0, &[op << 3 | form & 1], reg, rm);
            }
            6..=8 => {
                let opcode = self.input.pick(&[0x8A, 0x8B, 0x03, 0x33, 0x3B, 0x85, 0x63]);
                let (wide, reg) = (self.input.once_in(2), self.free());
                self.memory(wide, &[opcode], reg);
            }
            9..=12 => {
                let opcode = self
                    .input
                    .pick(&[0x88, 0x89, 0x01, 0x11, 0x29, 0x31, 0x39, 0x87]);
                let (wide, reg) = (self.input.once_in(2), self.free());
                self.memory(wide, &[opcode], reg);
            }
            13 => {
                let opcode: &[u8] = self.input.pick(&[
                    &[0x01],
                    &[0x29],
                    &[0x0F, 0xB1],
                    &[0x0F, 0xC1],
                    &[0x0F, 0xAB],
                ]);
                let (wide, reg) = (self.input.once_in(2), self.free());
                self.code.push(0xF0);
                self.memory(wide, opcode, reg);
            }
            14..=16 => {
                let opcode = self.input.pick(&[
                    0xAF, 0xB6, 0xB7, 0xBE, 0xBC, 0xBD, 0xA3, 0xAB, 0x44, 0x4C, 0x92, 0x9F, 0xC1,
                    0xA5,
                ]);
                let (wide, reg, rm) = (self.input.once_in(2), self.free(), self.free());
                self.registers(wide, &[0x0F, opcode], reg, rm);
            }
            17 => {
                let (op, rm, count) = (self.input.below(8) as u8, self.free(), self.any());
                self.registers(true, &[0xC1], op, rm);
                self.code.push(count);
            }
            18 => {
                // NOT, NEG, MUL, IMUL, DIV and IDIV, which mostly fault
                let (op, rm) = (2 + self.input.below(6) as u8, self.free());
                self.registers(true, &[0xF7], op, rm);
            }
            19 | 20 => self.vector(),
            21 => {
                let register = self.free();
                let opcode = if self.input.once_in(2) { 0x58 } else { 0x50 };
                self.put(&[0x40 | register >> 3, opcode | register & 7]);
            }
            22 => self.flags(),
            23 => self.string(),
            24 => self.patch(),
            25 => {
                let floating: &[u8] = self.input.pick(&[
                    &[0xD9, 0xE8],
                    &[0xDE, 0xC1],
                    &[0xDB, 0xE3],
                    &[0x0F, 0x77],
                    &[0xF2, 0x0F, 0x58, 0xC1],
                    &[0x0F, 0x5E, 0xC2],
                    &[0xC5, 0xF8, 0x77],
                ]);
                self.put(floating);
            }
            26 => {
                // RDTSC, PAUSE, CPUID, XGETBV, LFENCE, UD2, INT3, CLD
                let odd: &[u8] = self.input.pick(&[
                    &[0x0F, 0x31],
                    &[0xF3, 0x90],
                    &[0x0F, 0xA2],
                    &[0x0F, 0xAE, 0xE8],
                    &[0x0F, 0x0B],
                    &[0xCC],
                    &[0xFC],
                    &[0x0F, 0xC7, 0xF0],
                ]);
                self.put(odd);
            }
            27 => {
                let (opcode, reg) = (self.input.pick(&[0x8Bu8, 0x89, 0x8D]), self.free());
                // [r12 + reg * 1], mostly nowhere
                self.put(&[
                    0x49 | reg >> 3 << 1,
                    opcode,
                    0x04 | (reg & 7) << 3,
                    0x04 | (reg & 7) << 3,
                ]);
            }
            28 => {
                // Bases again where they belong.
                self.immediate(12, REGIONS[0] + DATA * 0x1000);
                self.immediate(14, REGIONS[1] + DATA * 0x1000);
            }
            29 => {
                let stack = if self.user { USER_STACK } else { KERNEL_STACK };
                let page = stack + self.input.below(2);
                let region = self.input.pick(&REGIONS);
                let top = region + page * 0x1000 + 0x1000 - self.input.below(4) * 4;
                self.immediate(4, top);
            }
            _ if self.user && !self.input.once_in(8) => self.put(&[0x90]),
            _ => self.system(),
        }
    }

    fn vector(&mut self) {
        let [a, b] = [self.any(), self.any()].map(|n| n & 7);
        match self.input.below(8) {
            0 => self.memory(false, &[0x0F, 0x10], a),
            1 => self.memory(false, &[0x0F, 0x11], a),
            2 => self.put(&[0x66, 0x0F, 0xFC, 0xC0 | a << 3 | b]),
            3 => self.put(&[0x66, 0x0F, 0xEF, 0xC0 | a << 3 | b]),
            4 => self.put(&[0xC5, 0xF5, 0xFE, 0xC0 | a << 3 | b]), // vpaddd ymm, ymm1, ymm
            5 | 6 => {
                // vmovdqu ymm, [r14 + disp32] and back
                let opcode = 0x6F | u8::from(self.input.once_in(2)) << 4;
                self.put(&[0xC4, 0xC1, 0x7E, opcode, 0x86 | a << 3]);
                self.displacement();
            }
            _ => self.put(&[0x66, 0x48, 0x0F, 0x7E, 0xC0 | a << 3 | b & 3]), // movq
        }
    }

    /// PUSHF, or other flags by POPF; seldom TF, IF as it comes.
    fn flags(&mut self) {
        if self.input.once_in(3) {
            self.code.push(0x9C);
            return;
        }
        let trap = if self.input.once_in(16) { 0x100 } else { 0 };
        let flags = u64::from(self.any()) | u64::from(self.any() & 0xE) << 8 | trap;
        self.push(flags & !0x2A | 2);
        self.code.push(0x9D);
    }

    fn string(&mut self) {
        let count = self.input.below(24) as u8;
        self.put(&[0xB9, count, 0, 0, 0]); // mov ecx, count
        self.put(&[0x49, 0x8D, 0xBC, 0x24]); // lea rdi, [r12 + disp32]
        self.displacement();
        self.put(&[0x49, 0x8D, 0xB6]); // lea rsi, [r14 + disp32]
        self.displacement();
        let opcode = self.input.pick(&[0xA4, 0xA5, 0xAA, 0xAB, 0xA6, 0xAE]);
        self.put(&[0xF3, 0x48, opcode]);
    }

    /// Writes a byte of code: mov byte [address], imm8.
    fn patch(&mut self) {
        let page = self.target() & !0xFFF;
        let slot = self.input.below(SLOTS) * SLOT;
        // Of the NOPs that a slot begins with, or anywhere behind them.
        let offset = if self.input.once_in(4) {
            8 + self.input.below(32)
        } else {
            self.input.below(8)
        };
        let byte = self
            .input
            .pick(&[0x90, 0xF8, 0xF9, 0xF5, 0xFC, 0x99, 0x9F, 0x98, 0xF4, 0xCC]);
        self.put(&[0xC6, 0x04, 0x25]);
        self.put_u32(page + slot + offset);
        self.code.push(byte);
    }

    /// What only ring 0 may do.
    fn system(&mut self) {
        match self.input.below(18) {
            0 => self.put(&[0xFA]),             // cli
            1 => self.put(&[0xFB]),             // sti
            2 => self.put(&[0x0F, 0x01, 0xCA]), // clac
            3 => self.put(&[0x0F, 0x01, 0xCB]), // stac
            4 => self.put(&[0x0F, 0x01, 0xF8]), // swapgs
            5..=7 => {
                // The other address space, or the same again; with bit 63 nothing is flushed.
                let keep = u64::from(!self.input.once_in(4)) << 63;
                let space = self.input.below(2) as usize;
                self.immediate(0, cr3(space) | keep);
                self.put(&[0x0F, 0x22, 0xD8]);
            }
            8 => {
                // CR4.SMAP or CR4.PGE changes
                let bit = self.input.pick(&[21, 7]);
                self.put(&[
                    0x0F, 0x20, 0xE0, 0x48, 0x0F, 0xBA, 0xF8, bit, 0x0F, 0x22, 0xE0,
                ]);
            }
            9 => {
                // CR0.TS or CR0.WP changes
                let bit = self.input.pick(&[3, 16]);
                self.put(&[
                    0x0F, 0x20, 0xC0, 0x48, 0x0F, 0xBA, 0xF8, bit, 0x0F, 0x22, 0xC0,
                ]);
            }
            10 => {
                // wrmsr: FS base, GS base
                let base = self.input.below(2) as u8;
                self.put(&[0xB9, base, 1, 0, 0xC0, 0x31, 0xD2, 0xB8]);
                self.put_u32(REGIONS[0] + DATA * 0x1000);
                self.put(&[0x0F, 0x30]);
            }
            11 => {
                let register = self.free();
                let segment = 0x64 | u8::from(self.input.once_in(2));
                // mov reg, fs:[disp32]
                self.put(&[
                    segment,
                    0x48 | register >> 3 << 2,
                    0x8B,
                    0x04 | (register & 7) << 3,
                    0x25,
                ]);
                let near = self.input.below(128) * 8;
                self.put_u32(near);
            }
            12 => self.put(&[0xF4]), // hlt
            13 => {
                let register = self.input.pick(&[0, 3]);
                self.put(&[0x8E, 0xD0 | register]); // mov ss, eax or ebx
            }
            _ => self.page_table(),
        }
    }

    /// Changes a page-table entry, and mostly tells the TLB.
    fn page_table(&mut self) {
        let space = self.input.below(2) as usize;
        let region = self.input.below(2) as usize;
        let page = self.input.below(PAGES);
        let at = entry(space, region, page);
        if self.input.once_in(3) {
            // Two entries change places.
            let other = self.input.below(PAGES);
            self.put(&[0x48, 0x8B, 0x04, 0x25]); // mov rax, [at]
            self.put_u32(at);
            self.put(&[0x48, 0x87, 0x04, 0x25]); // xchg rax, [other]
            self.put_u32(entry(space, region, other));
            self.put(&[0x48, 0x89, 0x04, 0x25]); // mov [at], rax
            self.put_u32(at);
            self.invlpg(REGIONS[region] + other * 0x1000);
        } else {
            // btc qword [at], bit: P, W, U, A, D, NX
            let bit = self.input.pick(&[0, 1, 1, 2, 5, 6, 63]);
            self.put(&[0x48, 0x0F, 0xBA, 0x3C, 0x25]);
            self.put_u32(at);
            self.code.push(bit);
        }
        if !self.input.once_in(4) {
            self.invlpg(REGIONS[region] + page * 0x1000);
        }
    }

    fn invlpg(&mut self, address: u64) {
        self.put(&[0x0F, 0x01, 0x3C, 0x25]);
        self.put_u32(address);
    }

    /// JMP, or a near branch of another kind, with a 32-bit displacement.
    fn branch(&mut self, opcode: &[u8], to: u64) {
        self.put(opcode);
        let next = self.start + self.code.len() as u64 + 4;
        self.put_u32(to.wrapping_sub(next));
    }

    fn end(&mut self) {
        let to = self.target();
        match self.input.below(16) {
            0..=2 => self.branch(&[0xE9], to),
            3..=5 => {
                let condition = self.input.below(16) as u8;
                let other = self.target();
                self.branch(&[0x0F, 0x80 | condition], to);
                self.branch(&[0xE9], other);
            }
            6 | 7 => {
                // dec r13d; jnz to; mov r13d, count; jmp
                let other = self.target();
                let count = 1 + self.input.below(12) as u8;
                self.put(&[0x41, 0xFF, 0xCD]);
                self.branch(&[0x0F, 0x85], to);
                self.put(&[0x41, 0xBD, count, 0, 0, 0]);
                self.branch(&[0xE9], other);
            }
            8 | 9 => {
                let other = self.target();
                self.branch(&[0xE8], to);
                self.branch(&[0xE9], other);
            }
            10 => self.put(&[0xC3]),
            11 => {
                let register = self.free();
                let form = self.input.pick(&[0xE0, 0xD0]);
                self.immediate(register, to);
                self.put(&[0x40 | register >> 3, 0xFF, form | register & 7]);
                let other = self.target();
                self.branch(&[0xE9], other);
            }
            12 => {
                // and eax, 7; jmp [rax * 8 + table]
                self.put(&[0x83, 0xE0, 7, 0xFF, 0x24, 0xC5]);
                let table = TABLE + if self.user { 64 } else { 0 };
                self.put_u32(table);
            }
            13 if self.user => {
                self.put(&[0x0F, 0x05]); // syscall
                self.branch(&[0xE9], to);
            }
            13 => {
                // To the user by SYSRET.
                let to = target(self.input, true);
                self.user_stack();
                self.immediate(1, to);
                self.put(&[0x41, 0xBB, 2, 2, 0, 0, 0x48, 0x0F, 0x07]);
            }
            14 => self.iret(),
            _ => {
                let vector = 0x30 + self.input.below(16) as u8;
                self.put(&[0xCD, vector]); // int
                self.branch(&[0xE9], to);
            }
        }
    }

    fn user_stack(&mut self) {
        let page = USER_STACK + self.input.below(2);
        self.immediate(4, REGIONS[0] + page * 0x1000 + 0x1000);
    }

    /// To either ring by IRET; in ring 3 to the same.
    fn iret(&mut self) {
        let user = self.user || self.input.once_in(2);
        let to = if self.input.once_in(4) {
            // The instruction that follows, as a kernel does to synchronise.
            0
        } else {
            target(self.input, user)
        };
        self.put(&[0x48, 0x89, 0xE0]); // mov rax, rsp
        let (cs, ss) = if user {
            (USER_CS, USER_SS)
        } else {
            (KERNEL_CS, KERNEL_SS)
        };
        self.put(&[0x6A, ss]);
        if user && !self.user {
            let page = USER_STACK + self.input.below(2);
            self.push(REGIONS[0] + page * 0x1000 + 0x1000);
        } else {
            self.code.push(0x50);
        }
        let flags = u64::from(self.any()) & 0xD5 | 0x202;
        self.push(flags);
        self.put(&[0x6A, cs]);
        if to == 0 {
            self.put(&[0x48, 0x8D, 0x05, 3, 0, 0, 0, 0x50]); // lea rax, [behind iretq]; push rax
        } else {
            self.push(to);
        }
        self.put(&[0x48, 0xCF]);
        let to = self.target();
        self.branch(&[0xE9], to);
    }

    /// Jumps to an instruction that lies on the last bytes of the page and the first of the next.
    fn across_the_end(&mut self) {
        // mov rax, imm64 or add rax, imm32 or cmp eax, imm32; the immediate's bytes are NOPs.
        let form: (&[u8], usize) = self.input.pick(&[
            (&[0x48, 0xB8], 8),
            (&[0x48, 0x05], 4),
            (&[0x3D], 4),
            (&[0x66, 0x05], 2),
        ]);
        let (opcode, immediate) = form;
        let inside = opcode.len() + self.input.below(immediate as u64) as usize;
        let begin = SLOT as usize - inside;
        let to = self.start + begin as u64;
        self.branch(&[0xE9], to);
        self.code.resize(begin, 0xCC);
        self.put(opcode);
        let end = SLOT as usize;
        self.code.resize(end, 0x90);
    }
}
