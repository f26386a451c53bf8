//! Scripted guests on a processor, without a module in between.

use std::cell::Cell;
use std::sync::mpsc::channel;

use tdx_call::TdcallCpu;
use tdx_call::{TdxModuleArgs, Traffic};
use tdx_module::{LpId, Machine};
use tdx_platform::{Event, Guests, Platform, PlatformConfig};
use x86_arch::vmx::{EntryEvent, Vcpu};
use x86_arch::{
    Access, EptFault, EptPermissions, ExitReason, Gpa, Gpr, Hkid, Hpa, KeyedHpa, SecondLevel,
    SecondLevelMapping,
};

const LP: LpId = LpId(0);
const VPID: u16 = 132;
const TD: Hkid = Hkid(33);

/// Guest pages lie 1 MiB higher in host memory, as far as `top`; counts walks.
struct Shifted {
    top: u64,
    walks: Cell<u32>,
}

impl SecondLevel for Shifted {
    fn translate(&self, gpa: Gpa, _access: Access) -> Result<SecondLevelMapping, EptFault> {
        self.walks.set(self.walks.get() + 1);
        if gpa.raw() >= self.top {
            let allowed = EptPermissions {
                read: false,
                write: false,
                execute: false,
            };
            return Err(EptFault::Violation {
                allowed,
                suppress_ve: true,
            });
        }
        let page = KeyedHpa::new(Hpa::new((1 << 20) + gpa.page().raw()), TD);
        Ok(SecondLevelMapping {
            page,
            level: 0,
            permissions: EptPermissions::RWX,
        })
    }
}

fn mapped(top: u64) -> Shifted {
    Shifted {
        top,
        walks: Cell::new(0),
    }
}

fn platform(guests: Guests) -> std::sync::Arc<Platform> {
    let platform = Platform::new(PlatformConfig::new(1, 1, 4 << 20), guests);
    let page = KeyedHpa::new(Hpa::new(1 << 20), TD);
    platform.hardware().memory.write_direct(page, &[0; 8192]);
    platform
}

fn vcpu() -> Vcpu {
    let mut vcpu = Vcpu::default();
    vcpu.controls.vpid = VPID;
    vcpu
}

fn reason(vcpu: &Vcpu) -> ExitReason {
    vcpu.exit.basic_reason()
}

#[test]
fn a_script_goes_on_where_its_exit_left_it() {
    let platform = platform(Guests::scripted(|cpu| {
        let mut args = TdxModuleArgs {
            rcx: 5,
            r10: 7,
            ..TdxModuleArgs::default()
        };
        let status = cpu.tdcall(tdx_abi::LeafWord(8), &mut args, Traffic::Saved);
        assert_eq!((status.map(|s| s.raw()), args.rdx), (Ok(0x77), 9));
        assert_eq!(
            cpu.hlt(),
            Err(Event {
                vector: Event::VE,
                error_code: None
            })
        );
        cpu.set_gpr(Gpr::Rbx, 0xB0B);
        cpu.cpuid(1, 0).expect("no event");
    }));
    let machine = platform.module().machine();
    let (mut vcpu, memory) = (vcpu(), mapped(0));
    machine.run(LP, &mut vcpu, &memory);
    assert_eq!(
        (reason(&vcpu), vcpu.exit.instruction_length),
        (ExitReason::TDCALL, 4)
    );
    assert_eq!(
        (vcpu.regs.gpr[0], vcpu.regs.gpr[1], vcpu.regs.gpr[10]),
        (8, 5, 7)
    );
    (vcpu.regs.gpr[0], vcpu.regs.gpr[2]) = (0x77, 9);
    vcpu.regs.rip += 4;
    machine.run(LP, &mut vcpu, &memory);
    assert_eq!(reason(&vcpu), ExitReason::HLT_INSTRUCTION);
    vcpu.entry_event = EntryEvent {
        info: 0x8000_0314,
        ..EntryEvent::default()
    };
    machine.run(LP, &mut vcpu, &memory);
    assert_eq!(
        (reason(&vcpu), vcpu.regs.gpr[3]),
        (ExitReason::CPUID_INSTRUCTION, 0xB0B)
    );
    assert_eq!(
        vcpu.entry_event.info, 0x0000_0314,
        "a VM exit clears the valid bit"
    );
    for _ in 0..2 {
        machine.run(LP, &mut vcpu, &memory);
        assert_eq!(
            reason(&vcpu),
            ExitReason::TRIPLE_FAULT,
            "the script is over"
        );
    }
}

#[test]
fn memory_is_the_tds_and_translations_stay_until_they_are_dropped() {
    let platform = platform(Guests::scripted(|cpu| {
        let mut bytes = [0; 4];
        cpu.store(Gpa::new(0xFFE), &[1, 2, 3, 4]).expect("mapped");
        cpu.load(Gpa::new(0xFFE), &mut bytes).expect("mapped");
        assert_eq!(bytes, [1, 2, 3, 4]);
        cpu.hlt().expect("no event");
        cpu.load(Gpa::new(0xFFE), &mut bytes).expect("still cached");
        cpu.hlt().expect("no event");
        cpu.load(Gpa::new(0xFFE), &mut bytes)
            .expect("mapped again in the end");
        cpu.hlt().expect("no event");
    }));
    let machine = platform.module().machine();
    let (mut vcpu, memory) = (vcpu(), mapped(0x2000));
    machine.run(LP, &mut vcpu, &memory);
    assert_eq!(
        (reason(&vcpu), memory.walks.get()),
        (ExitReason::HLT_INSTRUCTION, 2)
    );
    let gone = mapped(0);
    machine.run(LP, &mut vcpu, &gone);
    assert_eq!(
        (reason(&vcpu), gone.walks.get()),
        (ExitReason::HLT_INSTRUCTION, 0)
    );
    machine.invalidate_translations(LP, &[VPID]);
    machine.run(LP, &mut vcpu, &gone);
    assert_eq!(reason(&vcpu), ExitReason::EPT_VIOLATION);
    assert_eq!(
        (vcpu.exit.guest_physical_address, vcpu.exit.qualification),
        (0xFFE, 0x181)
    );
    machine.run(LP, &mut vcpu, &memory);
    assert_eq!(
        reason(&vcpu),
        ExitReason::HLT_INSTRUCTION,
        "the access is made again"
    );
}

#[test]
fn poison_is_a_machine_check_of_the_guest() {
    let platform = platform(Guests::scripted(|cpu| {
        let _ = cpu.load(Gpa::new(0), &mut [0]);
    }));
    let host = KeyedHpa::new(Hpa::new(1 << 20), Hkid(0));
    platform
        .hardware()
        .memory
        .write(host, &[1])
        .expect("a host write");
    let mut vcpu = vcpu();
    platform
        .module()
        .machine()
        .run(LP, &mut vcpu, &mapped(0x1000));
    assert_eq!(
        (reason(&vcpu), vcpu.exit.interruption_info),
        (ExitReason::EXCEPTION_OR_NMI, 0x8000_0312)
    );
}

#[test]
fn an_interrupt_exits_before_the_guest_runs_and_after_work() {
    let platform = platform(Guests::scripted(|cpu| {
        cpu.hlt().expect("no event");
        cpu.work(10).expect("no event");
        cpu.hlt().expect("no event");
    }));
    let machine = platform.module().machine();
    let (mut vcpu, memory) = (vcpu(), mapped(0));
    platform.hardware().interrupt(0, 0x31);
    machine.run(LP, &mut vcpu, &memory);
    assert_eq!(
        (reason(&vcpu), vcpu.exit.interruption_info),
        (ExitReason::INTERRUPT, 0x8000_0031)
    );
    assert_eq!(vcpu.runner, 0, "it never ran");
    machine.run(LP, &mut vcpu, &memory);
    assert_eq!(reason(&vcpu), ExitReason::HLT_INSTRUCTION);
    machine.run(LP, &mut vcpu, &memory);
    assert_eq!(reason(&vcpu), ExitReason::HLT_INSTRUCTION);
}

#[test]
fn dropping_the_platform_ends_its_scripts() {
    let (sent, ended) = channel();
    struct SayWhenDropped(std::sync::mpsc::Sender<()>);
    impl Drop for SayWhenDropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let platform = platform(Guests::scripted(move |cpu| {
        let _guard = SayWhenDropped(sent.clone());
        let _ = cpu.hlt();
        unreachable!("nobody enters it again");
    }));
    let mut vcpu = vcpu();
    platform.module().machine().run(LP, &mut vcpu, &mapped(0));
    drop(platform);
    ended.recv().expect("the script's thread unwinds");
}

#[test]
fn a_processor_belongs_to_one_caller() {
    let platform = platform(Guests::scripted(|_| {}));
    let lp = platform.lp(0);
    assert!(lp.is_some() && platform.lp(0).is_none() && platform.lp(1).is_none());
    drop(lp);
    assert!(platform.lp(0).is_some());
}
