//! SSE, AVX and FMA instructions: copied, as the interpreter's families of them say.
//!
//! A guest's vector register is in the host's register of the same number from its first use in a block; what
//! changed is written back wherever the block is left. [`super::floating`] tells of MXCSR.

use crate::exec::simd::operand::{is_vex, must_align};
use crate::exec::simd::{self, Family};
use crate::operand::gpr_of;
use crate::translate::asm::{Asm, EQUAL, NOT_EQUAL, RAX, RBX};
use crate::translate::block::{Builder, Done, Unsupported};
use crate::translate::entry::at;
use crate::translate::host::Host;
use crate::translate::select::{emit, part, point_at_r15};
use crate::translate::{HOST, floating};
use iced_x86::{
    CpuidFeature, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess,
    OpKind,
};
use x86_arch::RamPage;

/// Bits of `Frame::usable`.
pub const SSE: u8 = 1;
pub const AVX: u8 = 2;
/// The host's MXCSR is the guest's.
pub const FLOATING: u8 = 4;

/// What decides which instructions are copied.
#[derive(Clone, Copy)]
pub struct Copying {
    family: fn(&Instruction) -> Option<Family>,
    host: Host,
}

impl Copying {
    pub fn new<P: RamPage + 'static>(host: Host) -> Copying {
        Copying {
            family: |insn| Some(simd::family::<P>(insn)?.0),
            host,
        }
    }
}

/// Whether the interpreter has to execute an instruction of a family that is copied.
fn is_left_out(insn: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        insn.mnemonic(),
        // Approximations: each processor has its own.
        Rcpps | Rcpss | Rsqrtps | Rsqrtss | Vrcpps | Vrcpss | Vrsqrtps | Vrsqrtss
        // The manual leaves the order of the additions and their exceptions to the processor.
        | Dpps | Dppd | Vdpps | Vdppd
        | Maskmovdqu | Vmaskmovdqu
    )
}

/// Translates the instruction if it is one of these.
pub fn instruction(b: &mut Builder<'_>, insn: &Instruction) -> Done {
    let Some(family) = (b.vectors.family)(insn) else {
        return Err(Unsupported);
    };
    let host = b.vectors.host;
    // AVX moves the registers in and out.
    if is_left_out(insn) || !host.can_execute(insn) || !host.has(CpuidFeature::AVX) {
        return Err(Unsupported);
    }
    let vex = is_vex(insn);
    b.need_usable(if vex { AVX } else { SSE });
    match insn.mnemonic() {
        Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => return floating::load(b, insn),
        Mnemonic::Stmxcsr | Mnemonic::Vstmxcsr => return floating::store(b, insn),
        Mnemonic::Vzeroupper => {
            clear(b, |thunks| thunks.clear_upper);
            return Ok(());
        }
        Mnemonic::Vzeroall => {
            clear(b, |thunks| thunks.clear_all);
            return Ok(());
        }
        _ => {}
    }
    match family {
        Family::Float | Family::Convert => b.need_floating(),
        Family::Lanes | Family::Moves | Family::Scalar | Family::Memory | Family::Strings => {}
        Family::Gather | Family::State | Family::Mmx | Family::X87 => return Err(Unsupported),
    }
    copy(b, insn, vex)
}

/// The instruction itself on the registers and the address that stand for its operands.
fn copy(b: &mut Builder<'_>, insn: &Instruction, vex: bool) -> Done {
    let mut new = *insn;
    let mut general = None;
    let mut memory = None;
    let mut info = InstructionInfoFactory::new();
    let info = info.info_options(insn, InstructionInfoOptions::NO_MEMORY_USAGE);
    for n in 0..insn.op_count() {
        match insn.op_kind(n) {
            OpKind::Memory => memory = Some(writes(info.op_access(n))),
            OpKind::Immediate8 => {}
            OpKind::Register => {
                let register = insn.op_register(n);
                if register.is_gpr() && gpr_of(register).1 == 0 && general.is_none() {
                    general = Some((n, register));
                } else if !register.is_xmm() && !register.is_ymm() {
                    return Err(Unsupported);
                }
            }
            _ => return Err(Unsupported),
        }
    }
    let mut used = 0u16;
    let mut written = 0u16;
    for register in info.used_registers() {
        if register.register().is_vector_register() {
            let bit = 1 << (register.register().number() & 15);
            if writes(register.access()) {
                written |= bit;
            }
            // The VEX form clears what it does not write, the others keep it.
            if register.access() != OpAccess::Write || !vex {
                used |= bit;
            }
        }
    }
    if let Some(write) = memory {
        let size = insn.memory_size().size();
        if !matches!(size, 1 | 2 | 4 | 8 | 16 | 32) {
            return Err(Unsupported);
        }
        b.operand(insn, write, size)?;
        if must_align(insn, size) {
            b.asm.bytes(&[0x41, 0xF6, 0xC7, size as u8 - 1]); // test r15b, size - 1
            b.leave_if(NOT_EQUAL);
        }
        point_at_r15(&mut new);
    }
    b.load_vectors(used & !b.loaded);
    let mut home = None;
    if let Some((n, register)) = general {
        let guest = gpr_of(register).0;
        let host = match HOST[usize::from(guest)] {
            Some(host) => host,
            None => {
                b.asm.get(RAX, at::gpr(guest));
                if n == 0 {
                    home = Some(guest);
                }
                RAX
            }
        };
        new.set_op_register(n, part(host, register.size()));
    }
    if has_lengths(insn) {
        // Guest RCX and RDX are where the host's are.
        b.asm.mov(RAX, RBX);
    }
    emit(b, &new)?;
    if let Some(guest) = home {
        b.asm.put(at::gpr(guest), RAX);
    }
    b.loaded |= used | written;
    b.dirty |= written;
    if insn.rflags_modified() != 0 {
        b.wrote_flags();
    }
    Ok(())
}

fn writes(access: OpAccess) -> bool {
    !matches!(
        access,
        OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
    )
}

/// String comparisons that take lengths from RAX and RDX.
fn has_lengths(insn: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        insn.mnemonic(),
        Pcmpestri
            | Pcmpestrm
            | Pcmpestri64
            | Pcmpestrm64
            | Vpcmpestri
            | Vpcmpestrm
            | Vpcmpestri64
            | Vpcmpestrm64
    )
}

/// VZEROUPPER and VZEROALL.
fn clear(b: &mut Builder<'_>, thunk: fn(&crate::translate::thunks::Thunks) -> u64) {
    b.flush_vectors();
    b.loaded = 0;
    b.call(thunk);
}

/// The fixed code of [`clear`]. RAX and XMM0 are lost, the flags stay.
pub fn emit_clear(asm: &mut Asm, upper_only: bool) -> u64 {
    let here = asm.here();
    asm.get(RAX, at::VECTORS);
    asm.bytes(&[0xC5, 0xF9, 0xEF, 0xC0]); // vpxor xmm0, xmm0, xmm0
    for register in 0..16 {
        // vmovdqu [rax + 32 * register + 16], xmm0, or all of it from ymm0
        asm.bytes(&[0xC5, if upper_only { 0xFA } else { 0xFE }, 0x7F, 0x80]);
        asm.u32(register * 32 + if upper_only { 16 } else { 0 });
    }
    asm.bytes(&[0xC3]);
    here
}

impl Builder<'_> {
    /// The interpreter raises the fault when the system does not let these registers be used.
    fn need_usable(&mut self, bit: u8) {
        if self.checked & bit == 0 {
            self.lose_flags();
            self.asm.field_bits(0xF6, 0, at::USABLE, bit); // test
            self.leave_if(EQUAL);
            self.checked |= bit;
        }
    }

    /// The host's MXCSR is the guest's from here on.
    pub fn need_floating(&mut self) {
        if self.checked & FLOATING == 0 {
            self.lose_flags();
            self.enter_floating();
            self.checked |= FLOATING;
        }
    }

    /// Loads whole guest vector registers. RAX is lost, the flags stay.
    pub fn load_vectors(&mut self, which: u16) {
        self.move_vectors(which, 0x6F);
    }

    /// Writes back. RAX is lost, the flags stay.
    pub fn store_vectors(&mut self, which: u16) {
        self.move_vectors(which, 0x7F);
    }

    /// Writes back what changed in the block.
    pub fn flush_vectors(&mut self) {
        self.store_vectors(self.dirty);
        self.dirty = 0;
    }

    fn move_vectors(&mut self, which: u16, opcode: u8) {
        if which == 0 {
            return;
        }
        self.asm.get(RAX, at::VECTORS);
        for register in (0..16u8).filter(|n| which >> n & 1 != 0) {
            // vmovdqu ymm, [rax + 32 * register] or the reverse
            let first = if register < 8 { 0xFE } else { 0x7E };
            self.asm
                .bytes(&[0xC5, first, opcode, 0x80 | (register & 7) << 3]);
            self.asm.u32(u32::from(register) * 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::FlatPage;
    use crate::translate::block::{Source, Tools, translate};
    use crate::translate::thunks;
    use iced_x86::{Code, Decoder, DecoderOptions};
    use std::collections::{BTreeMap, BTreeSet};

    /// One encoding of each vector form that the interpreter implements: all opcodes with register and memory operands.
    fn forms() -> BTreeMap<(String, bool), Vec<u8>> {
        let mut forms = BTreeMap::new();
        let mut take = |bytes: &[u8]| {
            let insn = Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE).decode();
            if insn.code() != Code::INVALID && simd::family::<FlatPage>(&insn).is_some() {
                let memory = insn.op_kinds().any(|kind| kind == OpKind::Memory);
                let form = (format!("{:?}", insn.code()), memory);
                forms.entry(form).or_insert(bytes[..insn.len()].to_vec());
            }
        };
        // xmm1 and [rcx], and the numbers of groups.
        let operands = [0xCA, 0x0A]
            .into_iter()
            .chain((0..8).flat_map(|n| [0xC1 | n << 3, 1 | n << 3]));
        let operands: Vec<u8> = operands.collect();
        for opcode in 0..=255u8 {
            for &operand in &operands {
                // A SIB byte is there for gathers: [rcx + xmm7].
                let tail = [opcode, operand, 0x39, 0, 0];
                let gather = [opcode, 0x0C, 0x39, 0, 0];
                for prefix in [&[][..], &[0x66], &[0xF3], &[0xF2]] {
                    for rex in [&[][..], &[0x48]] {
                        for map in [&[0x0F][..], &[0x0F, 0x38], &[0x0F, 0x3A]] {
                            take(&[prefix, rex, map, &tail].concat());
                        }
                        take(&[prefix, rex, &tail].concat());
                    }
                }
                for map in 1..=3 {
                    for low in 0..8 {
                        for wide in [0, 0x80] {
                            for second in [0x78, 0x68] {
                                let prefix = [0xC4, 0xE0 | map, wide | second | low];
                                take(&[&prefix[..], &tail].concat());
                                take(&[&prefix[..], &gather].concat());
                            }
                        }
                    }
                }
            }
        }
        forms
    }

    fn decode(bytes: &[u8]) -> Instruction {
        Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE).decode()
    }

    /// Whether the host's code for the instruction is more than a way to the interpreter.
    fn is_copied(bytes: &[u8], host: Host) -> bool {
        let mut page = [0xF4; 4096];
        page[..bytes.len()].copy_from_slice(bytes);
        let source = Source {
            bytes: &page,
            page: 0x1000,
            offset: 0,
            version: 1,
            version_address: 0,
        };
        let thunks = thunks::emit(&mut Asm::new(0, Vec::new()));
        let mut tools = Tools::new();
        let vectors = Copying::new::<FlatPage>(host);
        translate(
            &source,
            0x1_0000,
            thunks,
            &mut tools,
            &|_| None,
            true,
            vectors,
        )
        .is_some()
    }

    #[test]
    fn every_vector_form_is_copied_except_those_that_are_the_interpreters() {
        let forms = forms();
        let mut left = BTreeSet::new();
        let mut copied = 0;
        for bytes in forms.values() {
            let insn = decode(bytes);
            let family = simd::family::<FlatPage>(&insn).map(|(family, _)| family);
            if is_copied(bytes, Host::complete()) {
                copied += 1;
            } else if !matches!(
                family,
                Some(Family::Mmx | Family::X87 | Family::Gather | Family::State)
            ) {
                left.insert(format!("{:?}", insn.mnemonic()));
            }
        }
        println!("{} forms, {copied} copied", forms.len());
        let expected = [
            "Dppd",
            "Dpps",
            "Maskmovdqu",
            "Rcpps",
            "Rcpss",
            "Rsqrtps",
            "Rsqrtss",
            "Vdppd",
            "Vdpps",
            "Vmaskmovdqu",
            "Vrcpps",
            "Vrcpss",
            "Vrsqrtps",
            "Vrsqrtss",
        ];
        assert_eq!(
            left.iter().map(String::as_str).collect::<Vec<_>>(),
            expected
        );
        assert!(copied > 800, "{copied} of {} forms", forms.len());
    }

    #[test]
    fn a_form_is_copied_only_when_the_host_has_its_features() {
        let forms = forms();
        let all = Host::complete();
        for name in Host::names() {
            let mut host = all;
            assert!(host.drop_feature(name));
            let mut lost = 0;
            for bytes in forms.values().filter(|bytes| is_copied(bytes, all)) {
                let insn = decode(bytes);
                // Nothing is copied without AVX, which moves the registers.
                let can = host.can_execute(&insn) && host.has(CpuidFeature::AVX);
                assert_eq!(
                    is_copied(bytes, host),
                    can,
                    "{:?} without {name}",
                    insn.code()
                );
                lost += usize::from(!can);
            }
            assert!(lost > 0, "{name}");
        }
        assert!(!all.clone().drop_feature("sse2"));
    }
}
