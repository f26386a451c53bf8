//! x87 and vector instructions and the system around them: who may use them, what they raise, what exits.

use proptest::prelude::*;
use x86_arch::ExitReason;
use x86_arch::vmx::Vcpu;
use x86_engine::Stop;
use x86_engine::flat::{FlatGuest, long_vcpu, protected_vcpu};
use x86_engine::side_by_side::SideBySide;

const CODE: u64 = 0x8000;
const DATA: u64 = 0x1_0000;

const UD: u8 = 6;
const NM: u8 = 7;
const GP: u8 = 13;
const MF: u8 = 16;
const XM: u8 = 19;

const CR0_EM: u64 = 4;
const CR0_TS: u64 = 8;
const CR0_MP: u64 = 2;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;

fn guest(cpl: u8) -> (FlatGuest, Vcpu) {
    let mut guest = FlatGuest::new(0x10_0000);
    let mut vcpu = long_vcpu(&mut guest, 0x1000, cpl);
    vcpu.regs.rip = CODE;
    vcpu.regs.gpr[0] = 7;
    vcpu.regs.gpr[3] = DATA;
    vcpu.controls.exception_bitmap = u32::MAX;
    vcpu.controls.primary = 1 << 31;
    vcpu.controls.secondary = 1 << 20;
    (guest, vcpu)
}

/// The vector of the exception that one instruction raises.
fn raised(code: &[u8], change: impl Fn(&mut Vcpu)) -> Option<u8> {
    let (mut guest, mut vcpu) = guest(0);
    change(&mut vcpu);
    guest.put(CODE, code);
    let ran = SideBySide::new().run(&mut vcpu, &mut guest, 1);
    (ran.stop == Stop::Exit).then(|| {
        assert_eq!(
            vcpu.exit.basic_reason(),
            ExitReason::EXCEPTION_OR_NMI,
            "{:?}",
            vcpu.exit
        );
        vcpu.exit.interruption_info as u8
    })
}

const ADDPS: &[u8] = &[0x0F, 0x58, 0xC1];
const DIVPS: &[u8] = &[0x0F, 0x5E, 0xC1];
const VADDPS: &[u8] = &[0xC5, 0xF4, 0x58, 0xC2];
const PADDB_MM: &[u8] = &[0x0F, 0xFC, 0xC1];
const FADD: &[u8] = &[0xD8, 0xC1];
const FWAIT: &[u8] = &[0x9B];
const FNSTSW: &[u8] = &[0xDF, 0xE0];
const FXSAVE: &[u8] = &[0x0F, 0xAE, 0x03];
const XSAVE: &[u8] = &[0x0F, 0xAE, 0x23];
const XSAVES: &[u8] = &[0x0F, 0xC7, 0x2B];
const XRSTORS: &[u8] = &[0x0F, 0xC7, 0x1B];
const XGETBV: &[u8] = &[0x0F, 0x01, 0xD0];

type Change = fn(&mut Vcpu);

/// SDM volume 1, 2.5 and 13.5.1; volume 2, tables 2-18 to 2-26 and the pages of the instructions; volume 3, 2.5 and 13.1.
#[test]
fn availability_is_checked_as_the_manual_says() {
    let rows: &[(&str, &[u8], Change, Option<u8>)] = &[
        ("SSE works", ADDPS, |_| (), None),
        (
            "SSE without CR4.OSFXSR",
            ADDPS,
            |v| v.regs.cr4 &= !CR4_OSFXSR,
            Some(UD),
        ),
        ("SSE with CR0.EM", ADDPS, |v| v.regs.cr0 |= CR0_EM, Some(UD)),
        ("SSE with CR0.TS", ADDPS, |v| v.regs.cr0 |= CR0_TS, Some(NM)),
        ("AVX works", VADDPS, |_| (), None),
        (
            "AVX without CR4.OSXSAVE",
            VADDPS,
            |v| v.regs.cr4 &= !CR4_OSXSAVE,
            Some(UD),
        ),
        (
            "AVX without XCR0.AVX",
            VADDPS,
            |v| v.regs.xcr0 = 3,
            Some(UD),
        ),
        (
            "AVX with CR0.TS",
            VADDPS,
            |v| v.regs.cr0 |= CR0_TS,
            Some(NM),
        ),
        (
            "AVX does not look at CR0.EM",
            VADDPS,
            |v| v.regs.cr0 |= CR0_EM,
            None,
        ),
        ("MMX works", PADDB_MM, |_| (), None),
        (
            "MMX with CR0.EM",
            PADDB_MM,
            |v| v.regs.cr0 |= CR0_EM,
            Some(UD),
        ),
        (
            "MMX with CR0.TS",
            PADDB_MM,
            |v| v.regs.cr0 |= CR0_TS,
            Some(NM),
        ),
        (
            "MMX with a pending x87 exception",
            PADDB_MM,
            pending,
            Some(MF),
        ),
        ("x87 with CR0.EM", FADD, |v| v.regs.cr0 |= CR0_EM, Some(NM)),
        ("x87 with CR0.TS", FADD, |v| v.regs.cr0 |= CR0_TS, Some(NM)),
        ("x87 with a pending exception", FADD, pending, Some(MF)),
        ("FWAIT with a pending exception", FWAIT, pending, Some(MF)),
        (
            "FWAIT with CR0.TS alone",
            FWAIT,
            |v| v.regs.cr0 = v.regs.cr0 & !CR0_MP | CR0_TS,
            None,
        ),
        (
            "FWAIT with CR0.TS and CR0.MP",
            FWAIT,
            |v| v.regs.cr0 |= CR0_TS | CR0_MP,
            Some(NM),
        ),
        ("FNSTSW does not wait", FNSTSW, pending, None),
        (
            "FXSAVE with CR0.TS",
            FXSAVE,
            |v| v.regs.cr0 |= CR0_TS,
            Some(NM),
        ),
        (
            "FXSAVE with CR0.EM",
            FXSAVE,
            |v| v.regs.cr0 |= CR0_EM,
            Some(UD),
        ),
        (
            "FXSAVE that is not aligned",
            FXSAVE,
            |v| v.regs.gpr[3] += 8,
            Some(GP),
        ),
        (
            "XSAVE without CR4.OSXSAVE",
            XSAVE,
            |v| v.regs.cr4 &= !CR4_OSXSAVE,
            Some(UD),
        ),
        (
            "XSAVE with CR0.TS",
            XSAVE,
            |v| v.regs.cr0 |= CR0_TS,
            Some(NM),
        ),
        (
            "XSAVE aligned to 16 only",
            XSAVE,
            |v| v.regs.gpr[3] += 16,
            Some(GP),
        ),
        (
            "XGETBV of register 2",
            XGETBV,
            |v| v.regs.gpr[1] = 2,
            Some(GP),
        ),
        ("XSAVES works in ring 0", XSAVES, |_| (), None),
        (
            "XSAVES without its VM-execution control",
            XSAVES,
            |v| v.controls.secondary = 0,
            Some(UD),
        ),
        (
            "XRSTORS of an area in standard format",
            XRSTORS,
            |_| (),
            Some(GP),
        ),
        (
            "division by zero, masked",
            DIVPS,
            |v| v.regs.fpu.ymm[0][0] = 0x3F80_0000,
            None,
        ),
        (
            "division by zero, unmasked",
            DIVPS,
            divide_by_zero,
            Some(XM),
        ),
        (
            "the same without CR4.OSXMMEXCPT",
            DIVPS,
            |v| {
                divide_by_zero(v);
                v.regs.cr4 &= !CR4_OSXMMEXCPT;
            },
            Some(UD),
        ),
    ];
    for (name, code, change, expected) in rows {
        assert_eq!(raised(code, change), *expected, "{name}");
    }
}

fn pending(vcpu: &mut Vcpu) {
    vcpu.regs.fpu.fcw = 0x37E;
    vcpu.regs.fpu.fsw = 0x8081;
}

fn divide_by_zero(vcpu: &mut Vcpu) {
    vcpu.regs.fpu.mxcsr = 0x1D80;
    vcpu.regs.fpu.ymm[0][0] = 0x3F80_0000;
}

#[test]
fn supervisor_saves_are_for_ring_0_and_exit_for_the_bits_asked_for() {
    let (mut memory, mut vcpu) = guest(3);
    memory.put(CODE, XSAVES);
    SideBySide::new().run(&mut vcpu, &mut memory, 1);
    assert_eq!(vcpu.exit.interruption_info as u8, GP);

    // SDM volume 3, 26.1.3: the AND of EDX:EAX, IA32_XSS and the XSS-exiting bitmap.
    let (mut memory, mut vcpu) = guest(0);
    memory.put(CODE, XSAVES);
    vcpu.regs.gpr[0] = 0x800;
    vcpu.regs.msr.xss = 0x800;
    vcpu.controls.xss_exiting = 0x800;
    SideBySide::new().run(&mut vcpu, &mut memory, 1);
    assert_eq!(vcpu.exit.basic_reason(), ExitReason::XSAVES_INSTRUCTION);
}

#[test]
fn what_xsaves_saves_xrstors_restores() {
    let (mut memory, mut vcpu) = guest(0);
    vcpu.regs.xcr0 = 0x207;
    vcpu.regs.msr.xss = 0x1800;
    vcpu.regs.gpr[0] = 0x1A07;
    vcpu.regs.pkru = 0x30;
    vcpu.regs.fpu.ymm[9] = [0x1234, 0x5678];
    vcpu.regs.fpu.mxcsr = 0x1FA0;
    let before = vcpu.regs.fpu.clone();
    let mut code = XSAVES.to_vec();
    code.extend([0xC5, 0xFC, 0x77]); // vzeroall
    code.extend(XRSTORS);
    memory.put(CODE, &code);
    let ran = SideBySide::new().run(&mut vcpu, &mut memory, 3);
    assert_eq!(ran.stop, Stop::Budget, "{:?}", vcpu.exit);
    assert_eq!(vcpu.regs.fpu, before);
    assert_eq!(vcpu.regs.pkru, 0x30);
    // The CET components were asked for and are in their initial state: in the layout, but not present.
    assert_eq!(memory.get_u64(DATA + 512), 0x206);
    assert_eq!(memory.get_u64(DATA + 520), 1 << 63 | 0x1A07);
    // PKRU lies behind AVX.
    assert_eq!(memory.get_u64(DATA + 576 + 256), 0x30);
}

#[test]
fn outside_64_bit_mode_only_eight_registers_are_touched() {
    let mut memory = FlatGuest::new(0x10_0000);
    let mut vcpu = protected_vcpu(0);
    vcpu.regs.cr4 |= CR4_OSXSAVE;
    vcpu.regs.rip = CODE;
    vcpu.regs.gpr[3] = DATA;
    vcpu.regs.fpu.ymm = [[5, 6]; 16];
    memory.put(DATA + 160 + 16 * 8, &[0xEE; 16]);
    let mut code = FXSAVE.to_vec();
    code.extend([0xC5, 0xFC, 0x77]); // vzeroall
    memory.put(CODE, &code);
    let ran = SideBySide::new().run(&mut vcpu, &mut memory, 2);
    assert_eq!(ran.stop, Stop::Budget);
    assert_eq!(memory.get_u64(DATA + 160 + 16 * 7), 5);
    assert_eq!(memory.get(DATA + 160 + 16 * 8, 16), vec![0xEE; 16]);
    assert_eq!(vcpu.regs.fpu.ymm[7], [0, 0]);
    assert_eq!(vcpu.regs.fpu.ymm[8], [5, 6]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Opcodes of the vector and x87 maps with any operands and any state: they fault or complete.
    #[test]
    fn no_vector_bytes_or_state_panic(
        map in prop::sample::select(vec![
            vec![0x0F], vec![0x66, 0x0F], vec![0xF3, 0x0F], vec![0xF2, 0x0F], vec![0x0F, 0x38], vec![0x66, 0x0F, 0x38],
            vec![0x66, 0x0F, 0x3A], vec![0xC5, 0xFD], vec![0xC5, 0xF6], vec![0xC4, 0xE1, 0x75], vec![0xC4, 0xE2, 0x75],
            vec![0xC4, 0xE2, 0xF5], vec![0xC4, 0xE3, 0x7D], vec![0xC4, 0xC3, 0xF5],
        ]),
        x87 in any::<bool>(),
        tail in any::<[u8; 12]>(),
        words in any::<[u128; 12]>(),
        control in any::<[u32; 3]>(),
        in_data in any::<u16>(),
    ) {
        let (mut memory, mut vcpu) = guest(0);
        let mut code = if x87 { vec![0xD8 | tail[0] & 7] } else { map };
        code.extend(tail);
        memory.put(CODE, &code);
        memory.put(DATA, &words.map(u128::to_le_bytes).concat());
        for n in 0..16 {
            vcpu.regs.fpu.ymm[n] = [words[n % 12], words[(n * 5 + 1) % 12]];
            vcpu.regs.gpr[n] = if in_data >> n & 1 != 0 { DATA + (words[n % 12] as u64 & 0xFC0) } else { words[n % 12] as u64 };
        }
        for (register, word) in vcpu.regs.fpu.st.iter_mut().zip(words) {
            *register = word & ((1 << 80) - 1);
        }
        vcpu.regs.fpu.mxcsr = control[0] & 0xFFFF;
        vcpu.regs.fpu.fcw = control[1] as u16 & 0x1F7F;
        vcpu.regs.fpu.fsw = control[2] as u16 & 0x7F7F;
        vcpu.regs.fpu.ftw = (control[2] >> 16) as u8;
        let ran = SideBySide::new().run(&mut vcpu, &mut memory, 4);
        prop_assert!(ran.retired <= 4);
    }
}
