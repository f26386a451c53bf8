//! Machine code on a processor's engine, without a module in between.

use tdx_module::{LpId, Machine};
use tdx_platform::{Guests, Platform, PlatformConfig};
use x86_arch::vmx::{Segment, Vcpu};
use x86_arch::{
    Access, EptFault, EptPermissions, ExitReason, Gpa, Hkid, Hpa, KeyedHpa, SecondLevel,
    SecondLevelMapping,
};

const LP: LpId = LpId(0);
const TD: Hkid = Hkid(33);
const HLT_EXITING: u32 = 1 << 7;

/// Guest memory is host memory 1 MiB higher, under the TD's key.
struct Shifted;

impl SecondLevel for Shifted {
    fn translate(&self, gpa: Gpa, _access: Access) -> Result<SecondLevelMapping, EptFault> {
        let page = KeyedHpa::new(Hpa::new((1 << 20) + gpa.page().raw()), TD);
        Ok(SecondLevelMapping {
            page,
            level: 0,
            permissions: EptPermissions::RWX,
        })
    }
}

/// A vCPU in flat 32-bit protected mode at address 0, as a TD's starts.
fn vcpu() -> Vcpu {
    let mut vcpu = Vcpu::default();
    let regs = &mut vcpu.regs;
    (regs.cr0, regs.cr4, regs.rflags) = (0x21, 0x2040, 2);
    regs.segments = [Segment {
        selector: 0,
        limit: u32::MAX,
        access: 0xC093,
        base: 0,
    }; 6];
    regs.segments[1].access = 0xC09B;
    regs.tr = Segment {
        selector: 0,
        limit: 0xFFFF,
        access: 0x8B,
        base: 0,
    };
    regs.ldtr = Segment {
        selector: 0,
        limit: 0xFFFF,
        access: 0x10082,
        base: 0,
    };
    vcpu.controls.primary = HLT_EXITING | 1 << 31;
    vcpu.controls.secondary = 1 << 1 | 1 << 5 | 1 << 7; // EPT, VPID, unrestricted guest
    vcpu.controls.pin = 1 | 1 << 3; // external interrupts and NMIs exit
    vcpu.controls.exception_bitmap = 1 << 18; // #MC
    vcpu.controls.vpid = 132;
    vcpu
}

fn with_code(code: &[u8]) -> std::sync::Arc<Platform> {
    let platform = Platform::new(PlatformConfig::new(1, 1, 4 << 20), Guests::engine(1));
    let mut page = [0x90; 4096];
    page[..code.len()].copy_from_slice(code);
    let at = KeyedHpa::new(Hpa::new(1 << 20), TD);
    platform.hardware().memory.write_direct(at, &page);
    platform
}

#[test]
fn machine_code_runs_in_private_memory_until_it_exits() {
    // mov eax, 0x12345678; mov [0x800], eax; hlt
    let code = [0xB8, 0x78, 0x56, 0x34, 0x12, 0xA3, 0, 8, 0, 0, 0xF4];
    let platform = with_code(&code);
    let mut vcpu = vcpu();
    platform.module().machine().run(LP, &mut vcpu, &Shifted);
    assert_eq!(
        (vcpu.exit.basic_reason(), vcpu.regs.rip),
        (ExitReason::HLT_INSTRUCTION, 10)
    );
    let mut bytes = [0; 4];
    let at = KeyedHpa::new(Hpa::new((1 << 20) + 0x800), TD);
    platform
        .hardware()
        .memory
        .read(at, &mut bytes)
        .expect("the TD's memory");
    assert_eq!(bytes, [0x78, 0x56, 0x34, 0x12]);
    assert!(
        platform.hardware().time() >= 2,
        "two instructions of virtual time"
    );
}

#[test]
fn the_processors_timer_ends_a_run_at_the_same_instruction_every_time() {
    let code = [0xFF, 0xC0, 0xEB, 0xFC]; // inc eax; jmp to it
    let ran = || {
        let platform = with_code(&code);
        platform.hardware().arm_timer(0, 10_000);
        let mut vcpu = vcpu();
        platform.module().machine().run(LP, &mut vcpu, &Shifted);
        assert_eq!(vcpu.exit.basic_reason(), ExitReason::INTERRUPT);
        assert_eq!(
            vcpu.exit.interruption_info & 0xFF,
            u32::from(tdx_machine::TIMER_VECTOR)
        );
        vcpu.regs.gpr[0]
    };
    let first = ran();
    assert!(
        (4_900..=5_100).contains(&first),
        "{first} increments in 10,000 instructions"
    );
    assert_eq!(ran(), first);
}

#[test]
fn an_nmi_exits_once() {
    let platform = with_code(&[0xF4]);
    platform.hardware().set_nmi(0, true);
    let mut vcpu = vcpu();
    platform.module().machine().run(LP, &mut vcpu, &Shifted);
    assert_eq!(vcpu.exit.interruption_info, 0x8000_0202);
    platform.module().machine().run(LP, &mut vcpu, &Shifted);
    assert_eq!(vcpu.exit.basic_reason(), ExitReason::HLT_INSTRUCTION);
}

#[test]
fn a_host_write_under_a_running_guest_is_its_machine_check() {
    let platform = with_code(&[0xF4]);
    let mut vcpu = vcpu();
    platform.module().machine().run(LP, &mut vcpu, &Shifted);
    assert_eq!(vcpu.exit.basic_reason(), ExitReason::HLT_INSTRUCTION);
    let line = KeyedHpa::new(Hpa::new(1 << 20), TD);
    platform.hardware().memory.flush_page(line);
    let host = KeyedHpa::new(Hpa::new(1 << 20), Hkid(0));
    platform
        .hardware()
        .memory
        .write(host, &[0xF4])
        .expect("a host write");
    platform.module().machine().run(LP, &mut vcpu, &Shifted);
    assert_eq!(vcpu.exit.interruption_info, 0x8000_0312, "{:?}", vcpu.exit);
}
