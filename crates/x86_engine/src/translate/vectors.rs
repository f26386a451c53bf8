//! SSE and AVX instructions that touch no MXCSR: moves, logic, integers, shuffles, AES, SHA.
//!
//! A guest's vector register is in the host's register of the same number from its first use in a block; what
//! changed is written back wherever the block is left.

use crate::exec::simd::operand::is_vex;
use crate::operand::gpr_of;
use crate::translate::HOST;
use crate::translate::asm::{EQUAL, NOT_EQUAL, RAX};
use crate::translate::block::{Builder, Done, Unsupported};
use crate::translate::entry::at;
use crate::translate::select::{emit, part, point_at_r15};
use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind};

/// Bits of `Frame::usable`.
pub const SSE: u8 = 1;
pub const AVX: u8 = 2;

/// Whether the instruction is one of these.
fn is_listed(insn: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        insn.mnemonic(),
        Movd | Movq
            | Movdqa
            | Movdqu
            | Movaps
            | Movapd
            | Movups
            | Movupd
            | Lddqu
            | Movntdq
            | Movntps
            | Movntpd
            | Movntdqa
            | Movhps
            | Movhpd
            | Movlps
            | Movlpd
            | Movhlps
            | Movlhps
            | Movss
            | Movsd
            | Movmskps
            | Movmskpd
            | Pmovmskb
            | Pxor
            | Por
            | Pand
            | Pandn
            | Xorps
            | Xorpd
            | Andps
            | Andpd
            | Andnps
            | Andnpd
            | Orps
            | Orpd
            | Paddb
            | Paddw
            | Paddd
            | Paddq
            | Psubb
            | Psubw
            | Psubd
            | Psubq
            | Paddsb
            | Paddsw
            | Paddusb
            | Paddusw
            | Psubsb
            | Psubsw
            | Psubusb
            | Psubusw
            | Pcmpeqb
            | Pcmpeqw
            | Pcmpeqd
            | Pcmpeqq
            | Pcmpgtb
            | Pcmpgtw
            | Pcmpgtd
            | Pcmpgtq
            | Pminub
            | Pminsw
            | Pminsb
            | Pminuw
            | Pminud
            | Pminsd
            | Pmaxub
            | Pmaxsw
            | Pmaxsb
            | Pmaxuw
            | Pmaxud
            | Pmaxsd
            | Pmullw
            | Pmulhw
            | Pmulhuw
            | Pmuludq
            | Pmuldq
            | Pmulld
            | Pmaddwd
            | Pmaddubsw
            | Pmulhrsw
            | Psadbw
            | Pavgb
            | Pavgw
            | Pabsb
            | Pabsw
            | Pabsd
            | Psignb
            | Psignw
            | Psignd
            | Phaddw
            | Phaddd
            | Psllw
            | Pslld
            | Psllq
            | Psrlw
            | Psrld
            | Psrlq
            | Psraw
            | Psrad
            | Pslldq
            | Psrldq
            | Punpcklbw
            | Punpcklwd
            | Punpckldq
            | Punpcklqdq
            | Punpckhbw
            | Punpckhwd
            | Punpckhdq
            | Punpckhqdq
            | Packsswb
            | Packssdw
            | Packuswb
            | Packusdw
            | Pshufd
            | Pshufhw
            | Pshuflw
            | Pshufb
            | Palignr
            | Shufps
            | Shufpd
            | Unpcklps
            | Unpckhps
            | Unpcklpd
            | Unpckhpd
            | Pinsrb
            | Pinsrw
            | Pinsrd
            | Pinsrq
            | Pextrb
            | Pextrw
            | Pextrd
            | Pextrq
            | Pblendw
            | Pblendvb
            | Ptest
            | Pmovzxbw
            | Pmovzxbd
            | Pmovzxbq
            | Pmovzxwd
            | Pmovzxwq
            | Pmovzxdq
            | Pmovsxbw
            | Pmovsxbd
            | Pmovsxbq
            | Pmovsxwd
            | Pmovsxwq
            | Pmovsxdq
            | Aesenc
            | Aesenclast
            | Aesdec
            | Aesdeclast
            | Aesimc
            | Aeskeygenassist
            | Pclmulqdq
            | Sha1msg1
            | Sha1msg2
            | Sha1nexte
            | Sha1rnds4
            | Sha256msg1
            | Sha256msg2
            | Sha256rnds2
            | Movshdup
            | Movsldup
            | Movddup
            | Vmovd
            | Vmovq
            | Vmovdqa
            | Vmovdqu
            | Vmovaps
            | Vmovapd
            | Vmovups
            | Vmovupd
            | Vlddqu
            | Vmovntdq
            | Vmovntps
            | Vmovntpd
            | Vpmovmskb
            | Vpxor
            | Vpor
            | Vpand
            | Vpandn
            | Vxorps
            | Vxorpd
            | Vandps
            | Vandpd
            | Vandnps
            | Vandnpd
            | Vorps
            | Vorpd
            | Vpaddb
            | Vpaddw
            | Vpaddd
            | Vpaddq
            | Vpsubb
            | Vpsubw
            | Vpsubd
            | Vpsubq
            | Vpcmpeqb
            | Vpcmpeqw
            | Vpcmpeqd
            | Vpcmpeqq
            | Vpcmpgtb
            | Vpcmpgtw
            | Vpcmpgtd
            | Vpcmpgtq
            | Vpminub
            | Vpminud
            | Vpmaxub
            | Vpmuludq
            | Vpmulld
            | Vpmullw
            | Vpmaddwd
            | Vpmaddubsw
            | Vpsadbw
            | Vpsllw
            | Vpslld
            | Vpsllq
            | Vpsrlw
            | Vpsrld
            | Vpsrlq
            | Vpsraw
            | Vpsrad
            | Vpslldq
            | Vpsrldq
            | Vpsllvd
            | Vpsllvq
            | Vpsrlvd
            | Vpsrlvq
            | Vpunpcklbw
            | Vpunpcklwd
            | Vpunpckldq
            | Vpunpcklqdq
            | Vpunpckhbw
            | Vpunpckhwd
            | Vpunpckhdq
            | Vpunpckhqdq
            | Vpackuswb
            | Vpshufd
            | Vpshufb
            | Vpshufhw
            | Vpshuflw
            | Vpalignr
            | Vshufps
            | Vshufpd
            | Vpinsrb
            | Vpinsrw
            | Vpinsrd
            | Vpinsrq
            | Vpextrb
            | Vpextrw
            | Vpextrd
            | Vpextrq
            | Vpblendd
            | Vpblendw
            | Vptest
            | Vpbroadcastb
            | Vpbroadcastw
            | Vpbroadcastd
            | Vpbroadcastq
            | Vbroadcasti128
            | Vinserti128
            | Vextracti128
            | Vperm2i128
            | Vpermq
            | Vpermd
            | Vpmovzxbw
            | Vpmovzxbd
            | Vpmovzxwd
            | Vpmovzxdq
            | Vaesenc
            | Vaesenclast
            | Vaesdec
            | Vaesdeclast
            | Vpclmulqdq
    )
}

/// Whether the host's processor has the instruction.
fn host_has(insn: &Instruction) -> bool {
    macro_rules! detected {
        ($feature:expr, $($known:ident $name:tt)*) => {
            match $feature {
                // Of every x86-64 processor.
                CpuidFeature::SSE | CpuidFeature::SSE2 => true,
                $(CpuidFeature::$known => host_has!($name),)*
                _ => false,
            }
        };
    }
    insn.cpuid_features().iter().all(|&feature| {
        detected!(feature,
            SSE3 "sse3" SSSE3 "ssse3" SSE4_1 "sse4.1" SSE4_2 "sse4.2" AES "aes" PCLMULQDQ "pclmulqdq" SHA "sha"
            AVX "avx" AVX2 "avx2" VAES "vaes" VPCLMULQDQ "vpclmulqdq")
    })
}

/// Whether a memory operand has to be aligned to its size.
fn needs_alignment(insn: &Instruction, size: usize) -> bool {
    use Mnemonic::*;
    match insn.mnemonic() {
        Movdqu | Movups | Movupd | Lddqu => false,
        Vmovdqa | Vmovaps | Vmovapd | Vmovntdq | Vmovntps | Vmovntpd => true,
        _ => !is_vex(insn) && size == 16,
    }
}

/// Translates the instruction if it is one of these.
pub fn instruction(b: &mut Builder<'_>, insn: &Instruction) -> Done {
    if !b.vectors || !is_listed(insn) || !host_has(insn) {
        return Err(Unsupported);
    }
    let mut new = *insn;
    let mut memory = false;
    let mut used = 0u16;
    let mut written = 0u16;
    let mut general = None;
    let vex = is_vex(insn);
    let count = insn.op_count();
    for n in 0..count {
        match insn.op_kind(n) {
            OpKind::Memory => memory = true,
            OpKind::Immediate8 => {}
            OpKind::Register => {
                let register = insn.op_register(n);
                if register.is_xmm() || register.is_ymm() {
                    let bit = 1u16 << (register.number() & 15);
                    let to = n == 0 && count > 1 && !is_test(insn);
                    if to {
                        written |= bit;
                    }
                    // The VEX form clears what it does not write, the others keep it.
                    if !(to && vex) {
                        used |= bit;
                    }
                } else if register.is_gpr() && gpr_of(register).1 == 0 && general.is_none() {
                    general = Some((n, register));
                } else {
                    return Err(Unsupported);
                }
            }
            _ => return Err(Unsupported),
        }
    }
    if matches!(insn.mnemonic(), Mnemonic::Pblendvb | Mnemonic::Sha256rnds2) {
        used |= 1;
    }
    available(b, if vex { AVX } else { SSE });
    if memory {
        let size = insn.memory_size().size();
        if !matches!(size, 1 | 2 | 4 | 8 | 16 | 32) {
            return Err(Unsupported);
        }
        let write = insn.op_kind(0) == OpKind::Memory && !is_test(insn);
        b.operand(insn, write, size)?;
        if needs_alignment(insn, size) {
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
    emit(b, &new)?;
    if let Some(guest) = home {
        b.asm.put(at::gpr(guest), RAX);
    }
    b.loaded |= used | written;
    b.dirty |= written;
    if is_test(insn) {
        b.wrote_flags();
    }
    Ok(())
}

fn is_test(insn: &Instruction) -> bool {
    matches!(insn.mnemonic(), Mnemonic::Ptest | Mnemonic::Vptest)
}

/// The interpreter raises the fault when the system does not let these registers be used.
fn available(b: &mut Builder<'_>, bit: u8) {
    if b.checked & bit == 0 {
        b.lose_flags();
        b.asm.bytes(&[0xF6, 0x85]); // test byte [rbp + USABLE], bit
        b.asm.u32(at::USABLE as u32);
        b.asm.bytes(&[bit]);
        b.leave_if(EQUAL);
        b.checked |= bit;
    }
}

impl Builder<'_> {
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
