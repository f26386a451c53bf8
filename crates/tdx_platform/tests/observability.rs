//! What a host sees that breaks the rules of private memory, on a whole platform.

mod life;

use life::{Bench, GIB, MIB};
use tdx_abi::Status;
use tdx_call::guest::tdg_vp_vmcall;
use tdx_call::host::{
    tdh_mem_page_remove, tdh_mem_range_block, tdh_mem_sept_rd, tdh_mem_track,
    tdh_phymem_page_wbinvd,
};
use tdx_call::{CallError, GpaMapping, HostMemory, TdxModuleArgs};
use tdx_host::{MemRegion, Td, TdConfig, Vcpu};
use tdx_platform::{Guests, ScriptCpu};
use x86_arch::{ExitReason, Gpa, Gpr, Hpa, KeyedHpa};

const PAGE: Gpa = Gpa::new(MIB);
/// The guest tells a value to its VMM.
fn tell(cpu: &mut ScriptCpu, value: u64) {
    let mut args = TdxModuleArgs {
        r12: value,
        ..TdxModuleArgs::default()
    };
    let mask = [Gpr::R10, Gpr::R11, Gpr::R12]
        .iter()
        .fold(0, |mask, &reg| mask | 1 << reg as u16);
    tdg_vp_vmcall(cpu, mask, &mut args).expect("a TDVMCALL");
}

/// A TD whose guest reads the word at [`PAGE`] again and again and tells it to its VMM.
fn reading_guest() -> Guests {
    Guests::scripted(|cpu| {
        loop {
            let mut word = [0; 8];
            cpu.load(PAGE, &mut word).expect("no #VE");
            tell(cpu, u64::from_le_bytes(word));
        }
    })
}

/// A TD of one vCPU with a page at [`PAGE`] that holds 0x5A all over, and where that page lies.
fn with_page(bench: &mut Bench) -> (Td, Vcpu, Hpa) {
    let td = bench.td(TdConfig::default());
    let vcpu = bench.vcpu(&td);
    td.add_ram(0..4 * MIB).expect("guest RAM");
    let mut region = MemRegion::new(PAGE, 4096, &[0x5A; 4096], false).expect("a page");
    let lp = &mut bench.lps[0].seam;
    td.init_mem_region(&bench.host, lp, &mut region, 1)
        .expect("a page is added");
    td.finalize(lp).expect("finalized");
    let (entry, _) = tdh_mem_sept_rd(lp, GpaMapping::page_4k(PAGE), td.tdr()).expect("an entry");
    (td, vcpu, Hpa::new(entry.entry.0 & 0x000F_FFFF_FFFF_F000))
}

/// The next word that the guest tells, or the exit that came instead.
fn told(bench: &mut Bench, vcpu: &mut Vcpu) -> Result<u64, (Status, ExitReason)> {
    let words = vcpu.enter(&mut bench.lps[0].seam, 0, 0).expect("an entry");
    if words.exit_reason() as u16 == ExitReason::TDCALL.0 {
        return Ok(vcpu.shown().arg(Gpr::R12).expect("shown"));
    }
    Err((words.rax.code(), ExitReason(words.exit_reason() as u16)))
}

const SECRET: u64 = 0x5A5A_5A5A_5A5A_5A5A;

#[test]
fn the_host_reads_no_plaintext_of_private_memory() {
    let mut bench = Bench::new(1, 1, GIB, reading_guest());
    let (_td, mut vcpu, page) = with_page(&mut bench);
    assert_eq!(told(&mut bench, &mut vcpu), Ok(SECRET));
    let mut bytes = [0xEE; 64];
    bench
        .host
        .memory()
        .read(page, &mut bytes)
        .expect("no machine check for reading");
    assert_eq!(bytes, [0; 64]);
    assert_eq!(told(&mut bench, &mut vcpu), Ok(SECRET), "and harms nothing");
}

#[test]
fn a_host_write_kills_the_td_that_reads_it_and_no_other() {
    let mut bench = Bench::new(1, 1, GIB, reading_guest());
    let (td, mut vcpu, page) = with_page(&mut bench);
    let other = bench.td(TdConfig::default());
    let mut other_vcpu = bench.vcpu(&other);
    other.add_ram(0..4 * MIB).expect("guest RAM");
    let lp = &mut bench.lps[0].seam;
    let mut region = MemRegion::new(PAGE, 4096, &[7; 4096], false).expect("a page");
    other
        .init_mem_region(&bench.host, lp, &mut region, 1)
        .expect("a page is added");
    other.finalize(lp).expect("finalized");
    assert_eq!(told(&mut bench, &mut vcpu), Ok(SECRET));

    let line = KeyedHpa::new(page, td.hkid());
    bench.platform.hardware().memory.flush_page(line);
    bench
        .host
        .memory()
        .write(page, &[0xBA])
        .expect("the write itself goes through");
    let (status, _) = told(&mut bench, &mut vcpu).expect_err("a machine check");
    assert!(status.raw() & Status::FATAL != 0, "{status:?}");
    let again = vcpu.enter(&mut bench.lps[0].seam, 0, 0).expect("a refusal");
    assert_eq!(again.rax.code(), Status::TD_FATAL);
    assert_eq!(told(&mut bench, &mut other_vcpu), Ok(0x0707_0707_0707_0707));
}

#[test]
fn block_without_track_leaves_the_translation_in_use_and_the_page_cannot_be_removed() {
    let mut bench = Bench::new(1, 1, GIB, reading_guest());
    let (td, mut vcpu, _page) = with_page(&mut bench);
    assert_eq!(told(&mut bench, &mut vcpu), Ok(SECRET));
    let at = GpaMapping::page_4k(PAGE);
    let lp = &mut bench.lps[0].seam;
    tdh_mem_range_block(lp, at, td.tdr()).expect("blocked");
    let refused = tdh_mem_page_remove(lp, at, td.tdr());
    let Err(CallError::Refused(refused)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refused.status.code(), Status::TLB_TRACKING_NOT_DONE);
    assert_eq!(
        told(&mut bench, &mut vcpu),
        Ok(SECRET),
        "the stale translation is in use"
    );

    let lp = &mut bench.lps[0].seam;
    tdh_mem_track(lp, td.tdr()).expect("tracked");
    let violation = told(&mut bench, &mut vcpu);
    assert_eq!(violation, Err((Status::SUCCESS, ExitReason::EPT_VIOLATION)));
    let lp = &mut bench.lps[0].seam;
    tdh_mem_page_remove(lp, at, td.tdr()).expect("removed");
}

#[test]
fn a_page_reclaimed_without_wbinvd_loses_what_the_host_writes() {
    let mut bench = Bench::new(
        1,
        1,
        GIB,
        Guests::scripted(|cpu| {
            cpu.store(PAGE, &[1; 64]).expect("no #VE");
            tell(cpu, 0);
            let _ = cpu.load(PAGE, &mut [0]);
        }),
    );
    let (td, mut vcpu, page) = with_page(&mut bench);
    assert_eq!(told(&mut bench, &mut vcpu), Ok(0));
    let at = GpaMapping::page_4k(PAGE);
    let lp = &mut bench.lps[0].seam;
    tdh_mem_range_block(lp, at, td.tdr()).expect("blocked");
    tdh_mem_track(lp, td.tdr()).expect("tracked");
    let _ = told(&mut bench, &mut vcpu);
    let lp = &mut bench.lps[0].seam;
    tdh_mem_page_remove(lp, at, td.tdr()).expect("removed");
    let memory = bench.host.memory();
    let written = |value: u8| {
        memory.clear_page(page).expect("host memory");
        memory.write(page, &[value; 64]).expect("host memory");
        let mut bytes = [0; 64];
        memory.read(page, &mut bytes).expect("host memory");
        bytes == [value; 64]
    };
    assert!(!written(0x33), "the guest's dirty lines lie over the page");
    let keyed = Hpa::new(page.raw() | u64::from(td.hkid().0) << 46);
    tdh_phymem_page_wbinvd(lp, keyed).expect("written back");
    assert!(written(0x44));
}
