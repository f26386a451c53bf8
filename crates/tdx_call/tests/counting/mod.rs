//! Counted execution: interprets the built machine code of an entry, instruction by instruction, on registers and memory
//! of its own, and counts what it executes, loads and stores. SEAMCALL is the caller's to play.
//!
//! The bytes are those of this very process (read through /proc/self/mem), decoded by iced-x86. An instruction that the
//! stubs do not use is a panic, not a guess.
#![allow(dead_code)] // the tests and the example use their parts

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use x86_arch::Gpr;

/// Where the interpreted memory keeps what an entry works on.
pub const STACK_TOP: u64 = 0x8_0000;
pub const ENTRY: u64 = 0x10_0000;
pub const GPR_FILE: u64 = 0x20_0000;
pub const XMM_FILE: u64 = 0x30_0000;
pub const LINUX_ARGS: u64 = 0x40_0000;
pub const LINUX_FIELDS: u64 = 0x50_0000;

/// What was executed between the call of a function and its return.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    pub instructions: u32,
    pub pushes: u32,
    pub pops: u32,
    /// Loads and stores of general-purpose registers: the register file, the words of the call and of the exit.
    pub loads: u32,
    pub stores: u32,
    /// Of these, the ones of the VMM's register file.
    pub file_loads: u32,
    pub file_stores: u32,
    pub xmm_loads: u32,
    pub xmm_stores: u32,
    /// Other loads and stores: pointers, what is owed, what was pushed.
    pub other_loads: u32,
    pub other_stores: u32,
}

impl Counts {
    pub fn add(self, more: Counts) -> Counts {
        Counts {
            instructions: self.instructions + more.instructions,
            pushes: self.pushes + more.pushes,
            pops: self.pops + more.pops,
            loads: self.loads + more.loads,
            stores: self.stores + more.stores,
            file_loads: self.file_loads + more.file_loads,
            file_stores: self.file_stores + more.file_stores,
            xmm_loads: self.xmm_loads + more.xmm_loads,
            xmm_stores: self.xmm_stores + more.xmm_stores,
            other_loads: self.other_loads + more.other_loads,
            other_stores: self.other_stores + more.other_stores,
        }
    }
}

/// A processor that executes what the stubs are made of.
#[derive(Clone)]
pub struct Cpu {
    pub gpr: [u64; 16],
    pub xmm: [u128; 16],
    pub carry: bool,
    zero: bool,
    memory: HashMap<u64, u64>,
    decoded: HashMap<u64, Rc<Instruction>>,
    pub counts: Counts,
}

impl Cpu {
    pub fn new() -> Cpu {
        Cpu {
            gpr: [0; 16],
            xmm: [0; 16],
            carry: false,
            zero: false,
            memory: HashMap::new(),
            decoded: HashMap::new(),
            counts: Counts::default(),
        }
    }

    pub fn peek(&self, address: u64) -> u64 {
        assert!(address.is_multiple_of(8), "{address:#x}");
        self.memory.get(&address).copied().unwrap_or(0)
    }
    pub fn poke(&mut self, address: u64, value: u64) {
        assert!(address.is_multiple_of(8), "{address:#x}");
        self.memory.insert(address, value);
    }
    pub fn peek_xmm(&self, n: u64) -> u128 {
        let at = XMM_FILE + 16 * n;
        u128::from(self.peek(at)) | u128::from(self.peek(at + 8)) << 64
    }
    pub fn poke_xmm(&mut self, n: u64, value: u128) {
        self.poke(XMM_FILE + 16 * n, value as u64);
        self.poke(XMM_FILE + 16 * n + 8, (value >> 64) as u64);
    }

    /// Calls the function at `address` with its arguments in RDI and RSI; SEAMCALL is `module`'s.
    pub fn call(&mut self, address: usize, arguments: [u64; 2], mut module: impl FnMut(&mut Cpu)) {
        const RETURN: u64 = 0xDEAD_0000;
        self.counts = Counts::default();
        self.gpr[Gpr::Rdi.index()] = arguments[0];
        self.gpr[Gpr::Rsi.index()] = arguments[1];
        self.gpr[Gpr::Rsp.index()] = STACK_TOP - 8;
        self.poke(STACK_TOP - 8, RETURN);
        let mut rip = address as u64;
        while rip != RETURN {
            assert!(self.counts.instructions < 1000, "no end");
            let instruction = self.decode(rip);
            self.counts.instructions += 1;
            rip = self.execute(&instruction, &mut module);
        }
        assert_eq!(
            self.gpr[Gpr::Rsp.index()],
            STACK_TOP,
            "the stack is balanced"
        );
    }

    fn decode(&mut self, rip: u64) -> Rc<Instruction> {
        if let Some(known) = self.decoded.get(&rip) {
            return known.clone();
        }
        let mut bytes = [0; 16];
        let memory = File::open("/proc/self/mem").expect("own memory");
        memory.read_exact_at(&mut bytes, rip).expect("code");
        let decoded = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).decode();
        assert!(!decoded.is_invalid(), "{bytes:x?} at {rip:#x}");
        self.decoded.entry(rip).or_insert(Rc::new(decoded)).clone()
    }

    fn execute(&mut self, i: &Instruction, module: &mut impl FnMut(&mut Cpu)) -> u64 {
        let mut next = i.next_ip();
        match i.mnemonic() {
            Mnemonic::Push => {
                let value = self.read(i, 0);
                self.counts.pushes += 1;
                self.push(value);
            }
            Mnemonic::Pop => {
                self.counts.pops += 1;
                let value = self.pop();
                self.write(i, 0, value);
            }
            Mnemonic::Ret => {
                next = self.peek(self.gpr[Gpr::Rsp.index()]);
                self.gpr[Gpr::Rsp.index()] += 8;
            }
            Mnemonic::Mov => {
                let value = self.read(i, 1);
                self.write(i, 0, value);
            }
            Mnemonic::Movaps => self.movaps(i),
            Mnemonic::Pxor => {
                assert_eq!(i.op0_register(), i.op1_register());
                self.xmm[i.op0_register().number()] = 0;
            }
            Mnemonic::Xor => {
                let value = self.read(i, 0) ^ self.read(i, 1);
                self.write(i, 0, value);
                (self.zero, self.carry) = (value == 0, false);
            }
            Mnemonic::Or => {
                let value = self.read(i, 0) | self.read(i, 1);
                self.write(i, 0, value);
                (self.zero, self.carry) = (value == 0, false);
            }
            Mnemonic::Test => {
                (self.zero, self.carry) = (self.read(i, 0) & self.read(i, 1) == 0, false);
            }
            Mnemonic::Cmp => {
                let (a, b) = (self.read(i, 0), self.read(i, 1));
                (self.zero, self.carry) = (a == b, a < b);
            }
            Mnemonic::Shr => {
                let value = self.read(i, 0) >> self.read(i, 1);
                self.write(i, 0, value);
                self.zero = value == 0;
            }
            Mnemonic::Bt => self.carry = self.read(i, 0) >> self.read(i, 1) & 1 != 0,
            Mnemonic::Jmp => next = i.near_branch_target(),
            Mnemonic::Je if self.zero => next = i.near_branch_target(),
            Mnemonic::Jne if !self.zero => next = i.near_branch_target(),
            Mnemonic::Jb if self.carry => next = i.near_branch_target(),
            Mnemonic::Jae if !self.carry => next = i.near_branch_target(),
            Mnemonic::Je | Mnemonic::Jne | Mnemonic::Jb | Mnemonic::Jae => {}
            Mnemonic::Seamcall => {
                self.carry = false;
                module(self);
            }
            _ => panic!("the stubs do not use {i}"),
        }
        next
    }

    fn push(&mut self, value: u64) {
        self.gpr[Gpr::Rsp.index()] -= 8;
        self.poke(self.gpr[Gpr::Rsp.index()], value);
    }
    fn pop(&mut self) -> u64 {
        let value = self.peek(self.gpr[Gpr::Rsp.index()]);
        self.gpr[Gpr::Rsp.index()] += 8;
        value
    }

    fn address(&self, i: &Instruction) -> u64 {
        assert_eq!(i.memory_index(), Register::None);
        let base = self.gpr[i.memory_base().number()];
        base.wrapping_add(i.memory_displacement64())
    }

    fn movaps(&mut self, i: &Instruction) {
        let at = self.address(i);
        assert!((XMM_FILE..XMM_FILE + 256).contains(&at) && at.is_multiple_of(16));
        if i.op0_kind() == OpKind::Memory {
            self.counts.xmm_stores += 1;
            self.poke_xmm((at - XMM_FILE) / 16, self.xmm[i.op1_register().number()]);
        } else {
            self.counts.xmm_loads += 1;
            self.xmm[i.op0_register().number()] = self.peek_xmm((at - XMM_FILE) / 16);
        }
    }

    fn read(&mut self, i: &Instruction, operand: u32) -> u64 {
        match i.op_kind(operand) {
            OpKind::Register => {
                let register = i.op_register(operand);
                let value = self.gpr[register.number()];
                match register.size() {
                    8 => value,
                    4 => value & 0xFFFF_FFFF,
                    1 => {
                        assert_eq!(register, Register::AL);
                        value & 0xFF
                    }
                    _ => panic!("{i}"),
                }
            }
            OpKind::Memory => {
                let at = self.address(i);
                self.count(at, false);
                self.peek(at)
            }
            // Sign-extended where the instruction says so.
            _ => i.immediate(operand),
        }
    }

    fn write(&mut self, i: &Instruction, operand: u32, value: u64) {
        match i.op_kind(operand) {
            OpKind::Register => {
                let register = i.op_register(operand);
                self.gpr[register.number()] = match register.size() {
                    8 => value,
                    4 => value & 0xFFFF_FFFF,
                    _ => panic!("{i}"),
                };
            }
            OpKind::Memory => {
                let at = self.address(i);
                self.count(at, true);
                self.poke(at, value);
            }
            _ => panic!("{i}"),
        }
    }

    fn count(&mut self, at: u64, store: bool) {
        let c = &mut self.counts;
        // Of a VpEntry: RCX of the call at 16, and the exit words from 32 on.
        let entry_word = at == ENTRY + 16 || (ENTRY + 32..ENTRY + 72).contains(&at);
        let file = (GPR_FILE..GPR_FILE + 128).contains(&at);
        let linux = (LINUX_ARGS..LINUX_ARGS + 104).contains(&at)
            || (LINUX_FIELDS..LINUX_FIELDS + 32).contains(&at);
        match (file || entry_word || linux, store) {
            (true, true) => c.stores += 1,
            (true, false) => c.loads += 1,
            (false, true) => c.other_stores += 1,
            (false, false) => c.other_loads += 1,
        }
        match (file, store) {
            (true, true) => c.file_stores += 1,
            (true, false) => c.file_loads += 1,
            _ => {}
        }
    }
}

/// How a round trip ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// RAX, RCX, RDX, R8, R9.
    Asynchronous([u64; 5]),
    /// A TDVMCALL with this RCX.
    Tdvmcall(u64),
    Refused(u64),
    VmFailInvalid,
}

/// A value of the guest: recognisable anywhere.
pub fn guest(register: usize) -> u64 {
    0x6E57_6E57_0000_0000 + register as u64
}
pub fn guest_xmm(n: usize) -> u128 {
    (0x6E57_6E57_u128 << 96) + n as u128
}

/// What the module does to the processor at that exit (spec: vp-enter.md 6.1), RBP zeroed as 1.5.01 does.
pub fn play(cpu: &mut Cpu, exit: Exit) {
    let rsp = cpu.gpr[Gpr::Rsp.index()];
    match exit {
        Exit::VmFailInvalid => return cpu.carry = true,
        Exit::Refused(status) => return cpu.gpr[0] = status,
        Exit::Asynchronous([rax, rcx, rdx, r8, r9]) => {
            cpu.gpr = [0; 16];
            cpu.xmm = [0; 16];
            (cpu.gpr[0], cpu.gpr[1], cpu.gpr[2], cpu.gpr[8], cpu.gpr[9]) = (rax, rcx, rdx, r8, r9);
        }
        Exit::Tdvmcall(rcx) => {
            for n in 2..16 {
                cpu.gpr[n] = if rcx >> n & 1 != 0 { guest(n) } else { 0 };
            }
            for n in 0..16 {
                cpu.xmm[n] = if rcx >> (16 + n) & 1 != 0 {
                    guest_xmm(n)
                } else {
                    0
                };
            }
            (cpu.gpr[0], cpu.gpr[1]) = (77, rcx);
        }
    }
    cpu.gpr[Gpr::Rsp.index()] = rsp;
}

/// Our entry with `owed` from the exit before. The processor afterwards is checked by the caller.
pub fn ours(owed: u64, exit: Exit, with_xmm: bool) -> Cpu {
    let mut cpu = Cpu::new();
    ours_on(&mut cpu, owed, exit, with_xmm, |_| {});
    cpu
}

/// The same on a given processor; `look` sees it at SEAMCALL.
pub fn ours_on(cpu: &mut Cpu, owed: u64, exit: Exit, with_xmm: bool, mut look: impl FnMut(&Cpu)) {
    for n in 0..16 {
        cpu.gpr[n as usize] = host(n as usize);
        cpu.xmm[n as usize] = u128::from(host(n as usize)) << 64;
        cpu.poke(GPR_FILE + 8 * n, file_value(n as usize));
        cpu.poke_xmm(n, u128::from(file_value(n as usize)) << 64);
    }
    cpu.poke(ENTRY, GPR_FILE);
    cpu.poke(ENTRY + 8, if with_xmm { XMM_FILE } else { 0 });
    cpu.poke(ENTRY + 16, 0x7_0000);
    cpu.poke(ENTRY + 24, owed);
    for n in 4..9 {
        cpu.poke(ENTRY + 8 * n, 0);
    }
    let enter = tdx_call::instruction::enter as *const () as usize;
    cpu.call(enter, [ENTRY, host(6)], |cpu| {
        assert_eq!((cpu.gpr[0], cpu.gpr[1]), (0, 0x7_0000), "TDH.VP.ENTER");
        look(cpu);
        play(cpu, exit);
    });
}

/// What the VMM's own registers hold before an entry.
pub fn host(register: usize) -> u64 {
    0x4057_0000_0000 + register as u64
}
/// What the VMM's register file holds before an entry.
pub fn file_value(register: usize) -> u64 {
    0xF11E_0000_0000 + register as u64
}

/// The model of Linux: `tdh_vp_enter`, and the copies after it.
pub fn linux(exit: Exit) -> (Counts, Counts) {
    use tdx_call::instruction::evidence;
    let mut cpu = Cpu::new();
    let enter = evidence::linux_vp_enter as *const () as usize;
    cpu.call(enter, [LINUX_ARGS, 0x7_0000], |cpu| play(cpu, exit));
    let entered = cpu.counts;
    let copies = evidence::linux_copies as *const () as usize;
    cpu.call(copies, [LINUX_ARGS, LINUX_FIELDS], |_| panic!("no call"));
    cpu.counts.instructions -= 1; // the copies stand in the caller: no return
    (entered, cpu.counts)
}
