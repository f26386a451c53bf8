//! The few host instructions that translation adds, as bytes.

/// Host registers by number.
pub const RAX: u8 = 0;
pub const RCX: u8 = 1;
pub const RDX: u8 = 2;
pub const RBX: u8 = 3;
pub const RSP: u8 = 4;
pub const RBP: u8 = 5;
pub const RSI: u8 = 6;
pub const RDI: u8 = 7;
pub const R8: u8 = 8;
pub const R9: u8 = 9;
pub const R10: u8 = 10;
pub const R11: u8 = 11;
pub const R12: u8 = 12;
pub const R13: u8 = 13;
pub const R14: u8 = 14;
pub const R15: u8 = 15;

/// Condition codes.
pub const NOT_BELOW: u8 = 3;
pub const EQUAL: u8 = 4;
pub const NOT_EQUAL: u8 = 5;
pub const NOT_ABOVE: u8 = 6;
pub const ABOVE: u8 = 7;
pub const SIGN: u8 = 8;

/// A forward reference: the offset of a 32-bit displacement to fill in.
#[derive(Clone, Copy)]
#[must_use]
pub struct Forward(usize);

/// Code being put together, and the address it will run at.
pub struct Asm {
    pub code: Vec<u8>,
    pub base: u64,
}

impl Asm {
    /// `code` is empty.
    pub fn new(base: u64, code: Vec<u8>) -> Asm {
        Asm { code, base }
    }
    pub fn here(&self) -> u64 {
        self.base + self.code.len() as u64
    }
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn rex_w(&mut self, reg: u8, index: u8, base: u8) {
        self.code
            .push(0x48 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3);
    }

    /// ModRM (and SIB) of [base + displacement].
    fn memory(&mut self, reg: u8, base: u8, displacement: i32) {
        let reg = (reg & 7) << 3;
        let short = i8::try_from(displacement);
        let mode = match short {
            Ok(0) if base & 7 != RBP => 0,
            Ok(_) => 0x40,
            Err(_) => 0x80,
        };
        self.code.push(mode | reg | base & 7);
        if base & 7 == RSP {
            self.code.push(0x24);
        }
        match short {
            Ok(_) if mode == 0 => {}
            Ok(short) => self.code.push(short as u8),
            Err(_) => self.bytes(&displacement.to_le_bytes()),
        }
    }

    /// A 64-bit instruction `opcode reg, [base + displacement]` (or the reverse; the opcode says).
    pub fn op_memory(&mut self, opcode: u8, reg: u8, base: u8, displacement: i32) {
        self.rex_w(reg, 0, base);
        self.code.push(opcode);
        self.memory(reg, base, displacement);
    }
    /// `mov r32, [base + displacement]`, for registers below R8.
    pub fn load_half(&mut self, to: u8, base: u8, displacement: i32) {
        self.code.push(0x8B);
        self.memory(to, base, displacement);
    }
    /// LDMXCSR or STMXCSR, by its number in the opcode's group; a base below R8.
    pub fn control(&mut self, operation: u8, base: u8, displacement: i32) {
        self.bytes(&[0x0F, 0xAE]);
        self.memory(operation, base, displacement);
    }
    /// A byte instruction of a group with an immediate on a field of the frame.
    pub fn field_bits(&mut self, opcode: u8, operation: u8, field: i32, bits: u8) {
        self.code.push(opcode);
        self.memory(operation, RBP, field);
        self.code.push(bits);
    }
    /// A 64-bit instruction `opcode rm, reg`.
    pub fn op_registers(&mut self, opcode: u8, rm: u8, reg: u8) {
        self.rex_w(reg, 0, rm);
        self.code.push(opcode);
        self.code.push(0xC0 | (reg & 7) << 3 | rm & 7);
    }
    pub fn mov(&mut self, to: u8, from: u8) {
        if to != from {
            self.op_registers(0x89, to, from);
        }
    }
    /// `rorx to, from, bits`: no flags.
    pub fn rotate_right(&mut self, to: u8, from: u8, bits: u8) {
        let extensions = (!to >> 3 & 1) << 7 | (!from >> 3 & 1) << 5;
        let operands = 0xC0 | (to & 7) << 3 | from & 7;
        self.bytes(&[0xC4, extensions | 0x43, 0xFB, 0xF0, operands, bits]);
    }
    /// `mov r32, r32` of one register: clears the upper half.
    pub fn cut(&mut self, register: u8) {
        let rex = 0x40 | (register >> 3) << 2 | register >> 3;
        let operands = 0xC0 | (register & 7) << 3 | register & 7;
        self.bytes(&[rex, 0x89, operands]);
    }
    /// A register's low 2, 4 or 8 bytes with their sign.
    pub fn sign_extend(&mut self, to: u8, from: u8, size: usize) {
        match size {
            2 => {
                self.rex_w(to, 0, from);
                self.bytes(&[0x0F, 0xBF, 0xC0 | (to & 7) << 3 | from & 7]);
            }
            4 => self.op_registers(0x63, from, to),
            _ => self.mov(to, from),
        }
    }
    /// The low byte of a register.
    pub fn mov_byte(&mut self, to: u8, from: u8) {
        let rex = 0x40 | (from >> 3) << 2 | to >> 3;
        self.bytes(&[rex, 0x88, 0xC0 | (from & 7) << 3 | to & 7]);
    }
    pub fn load(&mut self, to: u8, base: u8, displacement: i32) {
        self.op_memory(0x8B, to, base, displacement);
    }
    pub fn store(&mut self, base: u8, displacement: i32, from: u8) {
        self.op_memory(0x89, from, base, displacement);
    }
    /// A field of the frame.
    pub fn get(&mut self, to: u8, field: i32) {
        self.load(to, RBP, field);
    }
    pub fn put(&mut self, field: i32, from: u8) {
        self.store(RBP, field, from);
    }
    /// `lea to, [base + index * 2^scale + displacement]`.
    pub fn lea(&mut self, to: u8, base: Option<u8>, index: Option<(u8, u8)>, displacement: i32) {
        let Some((index, scale)) = index else {
            let Some(base) = base else {
                self.mov_imm(to, displacement as i64 as u64);
                return;
            };
            if displacement == 0 {
                self.mov(to, base);
            } else {
                self.op_memory(0x8D, to, base, displacement);
            }
            return;
        };
        self.rex_w(to, index, base.unwrap_or(0));
        self.code.push(0x8D);
        let reg = (to & 7) << 3;
        let sib = scale << 6 | (index & 7) << 3;
        let Some(base) = base else {
            self.bytes(&[reg | 4, sib | 5]);
            self.bytes(&displacement.to_le_bytes());
            return;
        };
        match i8::try_from(displacement) {
            Ok(0) if base & 7 != RBP => self.bytes(&[reg | 4, sib | base & 7]),
            Ok(short) => self.bytes(&[0x40 | reg | 4, sib | base & 7, short as u8]),
            Err(_) => {
                self.bytes(&[0x80 | reg | 4, sib | base & 7]);
                self.bytes(&displacement.to_le_bytes());
            }
        }
    }
    /// The shortest move of a constant; flags stay.
    pub fn mov_imm(&mut self, to: u8, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            if to >= 8 {
                self.code.push(0x41);
            }
            self.code.push(0xB8 | to & 7);
            self.u32(value);
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.rex_w(0, 0, to);
            self.bytes(&[0xC7, 0xC0 | to & 7]);
            self.bytes(&value.to_le_bytes());
        } else {
            self.rex_w(0, 0, to);
            self.code.push(0xB8 | to & 7);
            self.bytes(&value.to_le_bytes());
        }
    }
    /// `add|or|adc|sbb|and|sub|xor|cmp r64, imm` by the operation's number.
    pub fn alu_imm(&mut self, operation: u8, to: u8, value: i32) {
        self.rex_w(0, 0, to);
        let register = 0xC0 | operation << 3 | to & 7;
        match i8::try_from(value) {
            Ok(short) => self.bytes(&[0x83, register, short as u8]),
            Err(_) => {
                self.bytes(&[0x81, register]);
                self.bytes(&value.to_le_bytes());
            }
        }
    }
    /// The same on a field of the frame.
    pub fn alu_field_imm(&mut self, operation: u8, field: i32, value: i32) {
        self.code.push(0x48);
        match i8::try_from(value) {
            Ok(short) => {
                self.code.push(0x83);
                self.memory(operation, RBP, field);
                self.code.push(short as u8);
            }
            Err(_) => {
                self.code.push(0x81);
                self.memory(operation, RBP, field);
                self.bytes(&value.to_le_bytes());
            }
        }
    }

    pub fn jump(&mut self, to: u64) {
        self.code.push(0xE9);
        self.relative(to);
    }
    pub fn call(&mut self, to: u64) {
        self.code.push(0xE8);
        self.relative(to);
    }
    pub fn jump_if(&mut self, condition: u8, to: u64) {
        self.bytes(&[0x0F, 0x80 | condition]);
        self.relative(to);
    }
    fn relative(&mut self, to: u64) {
        let from = self.here() + 4;
        self.u32(to.wrapping_sub(from) as u32);
    }
    pub fn jump_forward(&mut self) -> Forward {
        self.code.push(0xE9);
        self.forward()
    }
    pub fn jump_forward_if(&mut self, condition: u8) -> Forward {
        self.bytes(&[0x0F, 0x80 | condition]);
        self.forward()
    }
    fn forward(&mut self) -> Forward {
        self.u32(0);
        Forward(self.code.len() - 4)
    }
    /// Lets a forward reference lead here.
    pub fn bind(&mut self, forward: Forward) {
        let distance = (self.code.len() - forward.0 - 4) as u32;
        self.code[forward.0..forward.0 + 4].copy_from_slice(&distance.to_le_bytes());
    }
    /// The address of a forward reference's displacement.
    pub fn site(&self, forward: Forward) -> u64 {
        self.base + forward.0 as u64
    }
}
