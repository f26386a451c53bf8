//! The life of a TD through the direct backend, through the trap backend, and with every call made to fail.

use std::cell::RefCell;
use std::rc::Rc;

use tdx_abi::{HostLeaf, Status};
use tdx_call::backend::{Fault, FaultRule, Faulty, Recorded, Schedule, Site, Traced, When};
use tdx_call::guest::{tdg_mem_page_accept, tdg_vp_info, tdg_vp_vmcall};
use tdx_call::{GpaMapping, SeamcallLp, TdxModuleArgs};
use tdx_host::tdvmcall::{Services, status};
use tdx_host::{
    Host, HostError, HostLayout, Lp, MemRegion, Run, RunStats, Stop, Td, TdConfig, Teardown,
};
use tdx_platform::{Guests, Platform, PlatformConfig, ScriptCpu};
use tdx_trap::{OnHost, Trap};
use x86_arch::{Gpa, Gpr};

const RAM: u64 = 16 << 20;
const IO: u64 = 30;
const MAP_GPA: u64 = 0x10001;

/// Accepts, prints, converts a page inside an accepted 2 MiB page, then takes a triple fault by ending.
fn guest(cpu: &mut ScriptCpu) {
    assert_eq!(cpu.gpr(Gpr::Rcx), 0x1234, "the initial RCX");
    let mut life = || -> Result<(), tdx_call::CallError> {
        let info = tdg_vp_info(cpu)?;
        tdg_mem_page_accept(cpu, GpaMapping::page_2m(Gpa::new(4 << 20)))?;
        let page = Gpa::new((4 << 20) + 0x5000);
        let _ = cpu.store(page, b"secret");
        for byte in *b"hi" {
            vmcall(cpu, [IO, 1, 1, 0x3F8, byte.into()])?;
        }
        let shared = page.raw() | 1 << (info.gpaw - 1);
        vmcall(cpu, [MAP_GPA, shared, 4096, 0, 0])?;
        let _ = cpu.store(Gpa::new(shared), b"public");
        vmcall(cpu, [MAP_GPA, page.raw(), 4096, 0, 0])?;
        tdg_mem_page_accept(cpu, GpaMapping::page_4k(page))?;
        Ok(())
    };
    life().expect("the module serves this guest");
}

fn vmcall(cpu: &mut ScriptCpu, r11_to_r15: [u64; 5]) -> Result<(), tdx_call::CallError> {
    let [r11, r12, r13, r14, r15] = r11_to_r15;
    let mut args = TdxModuleArgs {
        r11,
        r12,
        r13,
        r14,
        r15,
        ..Default::default()
    };
    tdg_vp_vmcall(cpu, 0xFC00, &mut args)?;
    assert_eq!(args.r10, status::SUCCESS);
    Ok(())
}

/// Keeps what the guest prints.
#[derive(Default)]
struct Printed(Vec<u8>);

impl Services for Printed {
    fn io_write(&mut self, _vcpu: u32, port: u16, size: u8, value: u32) {
        assert_eq!((port, size), (0x3F8, 1));
        self.0.push(value as u8);
    }
}

fn platform() -> std::sync::Arc<Platform> {
    let mut config = PlatformConfig::new(1, 1, 64 << 20);
    config.machine.seed = 7;
    Platform::new(config, Guests::scripted(guest))
}

fn layout(platform: &Platform) -> HostLayout {
    HostLayout {
        memory: platform.info().cmrs,
        private_keys: 32..64,
        keyid_bits: 6,
    }
}

/// What a life came to.
#[derive(PartialEq, Debug)]
struct Lived {
    stop: Stop,
    printed: Vec<u8>,
    stats: RunStats,
    teardown: Teardown,
}

/// The whole life on one processor. `Err` says at which stage it ended; the TD is gone in either case.
fn live<L: SeamcallLp>(
    platform: &std::sync::Arc<Platform>,
    seam: L,
) -> Result<Lived, (&'static str, HostError)> {
    let mut lps = [Lp { seam, package: 0 }];
    let host = Host::bring_up(platform.memory(), &layout(platform), &mut lps)
        .map_err(|e| ("bring-up", e))?;
    let before = (host.free_pages(), host.free_hkids());
    let config = TdConfig {
        max_vcpus: 1,
        ..TdConfig::default()
    };
    let td = Td::create(&host, &mut lps, config, || {}).map_err(|e| {
        let stage = match e {
            HostError::Leaked(_) => "teardown",
            _ => "create",
        };
        if stage == "create" {
            assert_gone(&host, before, &e);
        }
        (stage, e)
    })?;
    let mut printed = Printed::default();
    let mut stats = RunStats::default();
    let mut vcpus = Vec::new();
    let stop = (|| {
        td.add_ram(0..RAM)?;
        let mut region = MemRegion::new(Gpa::new(0x1000), 0x3000, &[0x5A; 5000], true)?;
        while region.progress().done < region.progress().total {
            td.init_mem_region(&host, &mut lps[0].seam, &mut region, 1)?;
        }
        vcpus.push(td.add_vcpu(&host, &mut lps, 0, 0x1234)?);
        td.finalize(&mut lps[0].seam)?;
        Run {
            host: &host,
            td: &td,
            lp: &mut lps[0].seam,
            on: 0,
            services: &mut printed,
            stats: &mut stats,
        }
        .run(&mut vcpus[0])
    })();
    let torn = td.destroy(&host, &mut lps, vcpus);
    match (stop, torn) {
        (stop, Ok(teardown)) => {
            assert_eq!((host.free_pages(), host.free_hkids()), before, "{stop:?}");
            Ok(Lived {
                stop: stop.map_err(|e| ("run", e))?,
                printed: printed.0,
                stats,
                teardown,
            })
        }
        (_, Err(leak)) => {
            assert!(matches!(leak, HostError::Leaked(_)), "{leak}");
            Err(("teardown", leak))
        }
    }
}

/// After a failed creation either everything is back, or the failure of the module makes the loss known.
fn assert_gone<M: tdx_call::HostMemory>(host: &Host<M>, before: (u64, usize), why: &HostError) {
    assert_eq!((host.free_pages(), host.free_hkids()), before, "{why}");
}

#[test]
fn the_direct_and_the_trap_backend_give_the_same_life_call_by_call() {
    let calls = |trapped: bool| {
        let platform = platform();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let sink = {
            let seen = Rc::clone(&seen);
            move |call: &Recorded| seen.borrow_mut().push(*call)
        };
        let lp = platform.lp(0).expect("a processor");
        let lived = match trapped {
            false => live(&platform, Traced::new(lp, sink)),
            true => {
                let trap = Trap::install(OnHost(lp.0)).expect("signals can be caught");
                live(&platform, Traced::new(trap.lp(), sink))
            }
        };
        (lived.expect("nothing fails"), seen.take())
    };
    let (direct, direct_calls) = calls(false);
    let (trapped, trapped_calls) = calls(true);
    assert_eq!(direct, trapped);
    assert_eq!(direct_calls, trapped_calls);
    assert_eq!(direct.stop, Stop::TripleFault, "the script has ended");
    assert_eq!(direct.printed, b"hi");
    assert_eq!(direct.stats.tdvmcalls[&MAP_GPA], 2);
    let demoted = |call: &Recorded| matches!(call, Recorded::Seamcall { leaf, .. } if leaf.number() == HostLeaf::MEM_PAGE_DEMOTE.0);
    assert!(direct_calls.iter().any(demoted), "the 2 MiB page was split");
}

#[test]
fn a_held_lock_anywhere_is_only_a_delay() {
    for &leaf in HostLeaf::ALL {
        let schedule = fault(leaf, Fault::Busy, 1, 3);
        let platform = platform();
        let lp = Faulty::new(platform_lp(&platform), &schedule);
        match live(&platform, lp) {
            Ok(lived) => assert_eq!(lived.printed, b"hi", "{leaf}"),
            Err((stage, why)) => panic!("{leaf} busy: {stage}: {why}"),
        }
    }
}

#[test]
fn a_leaf_that_fails_for_good_ends_the_td_without_a_leak_or_names_what_is_lost() {
    let mut ends = [0; 3];
    for &leaf in HostLeaf::ALL {
        for first in 1..=3 {
            let status = Status::OPERAND_INVALID.with_operand(tdx_abi::OperandId::RCX);
            let schedule = fault(leaf, Fault::Answer(status), first, u32::MAX);
            let platform = platform();
            let lp = Faulty::new(platform_lp(&platform), &schedule);
            // `live` itself asserts that a TD that went leaves nothing behind.
            match live(&platform, lp) {
                Ok(_) => ends[0] += 1,
                Err(("teardown", why)) => {
                    assert!(why.to_string().contains(&leaf.to_string()), "{why}");
                    ends[2] += 1;
                }
                Err((_, why)) => {
                    assert!(why.to_string().contains(&leaf.to_string()), "{leaf}: {why}");
                    ends[1] += 1;
                }
            }
        }
    }
    let [unharmed, refused, lost] = ends;
    println!(
        "{unharmed} lives unharmed, {refused} refused and taken back, {lost} with a named loss"
    );
    assert!(unharmed > 0 && refused > 0 && lost > 0);
}

fn fault(leaf: HostLeaf, fault: Fault, first: u32, count: u32) -> Schedule {
    let rule = FaultRule {
        fault,
        site: Site::Leaf(leaf),
        when: When::From { first, count },
    };
    Schedule::new([rule], 0)
}

fn platform_lp(platform: &std::sync::Arc<Platform>) -> impl SeamcallLp + use<> {
    platform.lp(0).expect("a processor")
}
