//! Each typed wrapper passes the registers that the ABI's table of leaves lists, and returns what it lists.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tdx_abi::{LeafWord, Status};
use tdx_call::guest::*;
use tdx_call::host::*;
use tdx_call::{
    CallError, FieldId, GpaMapping, NoSeam, Progress, SeamcallLp, TdcallCpu, Tdr, Tdvpr,
    TdxModuleArgs, Traffic, VpEntry,
};
use x86_arch::{Gpa, Hkid, Hpa};

/// Notes what was called, and answers with a value for each register.
#[derive(Default)]
struct Recorder {
    calls: Vec<(LeafWord, TdxModuleArgs, Traffic)>,
    status: Option<Status>,
}

impl Recorder {
    fn answer(&mut self, leaf: LeafWord, args: &mut TdxModuleArgs, traffic: Traffic) -> Status {
        self.calls.push((leaf, *args, traffic));
        let mut values = args.to_array();
        let crossing = match traffic {
            Traffic::In => 0,
            Traffic::InOut => 6,
            Traffic::Saved => 13,
        };
        for (n, value) in values.iter_mut().enumerate().take(crossing) {
            *value = answer(n);
        }
        *args = TdxModuleArgs::from_array(values);
        self.status.unwrap_or(Status::SUCCESS)
    }
}

/// What the recorder puts into the nth register of the block: RCX, RDX, R8 …
fn answer(n: usize) -> u64 {
    0xA000 + 0x1000 * n as u64
}

impl SeamcallLp for Recorder {
    fn seamcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        Ok(self.answer(leaf, args, traffic))
    }
    fn vp_enter(&mut self, _: &mut VpEntry<'_>) -> Result<Status, NoSeam> {
        Err(NoSeam::VmFailInvalid)
    }
}
impl TdcallCpu for Recorder {
    fn tdcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        Ok(self.answer(leaf, args, traffic))
    }
}

const TDR: Tdr = Tdr(Hpa::new(0x1000));
const TDVPR: Tdvpr = Tdvpr(Hpa::new(0x2000));
const PAGE: Hpa = Hpa::new(0x3000);
const MAPPING: GpaMapping = GpaMapping(0x4001);
const FIELD: FieldId = FieldId(0x5000);

fn lists() -> PageLists {
    PageLists {
        gpas: 1,
        mbmd: 2,
        buffers: 3,
        stream: 4,
        macs: [5, 6],
    }
}

/// Calls every host wrapper once, with no operand 0.
fn every_host_leaf(lp: &mut Recorder) -> Result<(), CallError> {
    tdh_sys_init(lp)?;
    tdh_sys_lp_init(lp)?;
    tdh_sys_rd(lp, FIELD)?;
    tdh_sys_rdall(lp, PAGE, FIELD)?;
    tdh_sys_info(lp, PAGE, 1024, PAGE, 32)?;
    tdh_sys_config(lp, PAGE, 1, Hkid(7))?;
    tdh_sys_key_config(lp)?;
    tdh_sys_tdmr_init(lp, PAGE)?;
    tdh_sys_shutdown(lp, 1)?;
    tdh_sys_update(lp)?;
    tdh_sys_lp_shutdown(lp)?;
    tdh_mng_create(lp, TDR, Hkid(7))?;
    tdh_mng_addcx(lp, PAGE, TDR)?;
    tdh_mng_init(lp, TDR, PAGE)?;
    tdh_mng_key_config(lp, TDR)?;
    tdh_mng_key_freeid(lp, TDR)?;
    tdh_mng_key_reclaimid(lp, TDR)?;
    tdh_mng_vpflushdone(lp, TDR)?;
    tdh_mng_rd(lp, TDR, FIELD)?;
    tdh_mng_rd_next(lp, TDR, FIELD)?;
    tdh_mng_wr(lp, TDR, FIELD, 8, 9)?;
    tdh_mr_extend(lp, Gpa::new(0x100), TDR)?;
    tdh_mr_finalize(lp, TDR)?;
    tdh_vp_create(lp, TDVPR, TDR)?;
    tdh_vp_addcx(lp, PAGE, TDVPR)?;
    tdh_vp_init(lp, TDVPR, 5)?;
    tdh_vp_flush(lp, TDVPR)?;
    tdh_vp_rd(lp, TDVPR, FIELD)?;
    tdh_vp_rd_next(lp, TDVPR, FIELD)?;
    tdh_vp_wr(lp, TDVPR, FIELD, 8, 9)?;
    tdh_mem_sept_add(lp, MAPPING, TDR, PAGE)?;
    tdh_mem_sept_add_vms(lp, MAPPING, TDR, true, [1, 2, 3, 4])?;
    tdh_mem_sept_rd(lp, MAPPING, TDR)?;
    tdh_mem_sept_remove(lp, MAPPING, TDR)?;
    tdh_mem_sept_remove_vms(lp, MAPPING, TDR)?;
    tdh_mem_page_add(lp, MAPPING, TDR, PAGE, PAGE)?;
    tdh_mem_page_aug(lp, MAPPING, TDR, PAGE)?;
    tdh_mem_page_remove(lp, MAPPING, TDR)?;
    tdh_mem_page_relocate(lp, MAPPING, TDR, PAGE)?;
    tdh_mem_page_promote(lp, MAPPING, TDR)?;
    tdh_mem_page_promote_vms(lp, MAPPING, TDR)?;
    tdh_mem_page_demote(lp, MAPPING, TDR, true, PAGE, [1, 2, 3])?;
    tdh_mem_range_block(lp, MAPPING, TDR)?;
    tdh_mem_range_unblock(lp, MAPPING, TDR)?;
    tdh_mem_track(lp, TDR)?;
    tdh_mem_rd(lp, Gpa::new(8), TDR)?;
    tdh_mem_wr(lp, Gpa::new(8), TDR, 9)?;
    tdh_phymem_page_rdmd(lp, PAGE)?;
    tdh_phymem_page_reclaim(lp, PAGE)?;
    tdh_phymem_page_wbinvd(lp, PAGE)?;
    tdh_phymem_cache_wb(lp, true)?;
    tdh_servtd_bind(lp, TDR, TDR, 1, 2, 3)?;
    tdh_servtd_prebind(lp, TDR, PAGE, 1, 2, 3)?;
    tdh_mig_stream_create(lp, PAGE, TDR)?;
    tdh_export_abort(lp, TDR, 1, 2)?;
    tdh_export_track(lp, TDR, 1, 2)?;
    tdh_export_blockw(lp, 1, TDR)?;
    tdh_export_restore(lp, 1, TDR)?;
    tdh_export_unblockw(lp, MAPPING, TDR)?;
    tdh_export_pause(lp, TDR)?;
    tdh_export_mem(lp, lists(), TDR)?;
    tdh_export_state_immutable(lp, TDR, 1, 2, 3)?;
    tdh_export_state_td(lp, TDR, 1, 2, 3)?;
    tdh_export_state_vp(lp, TDVPR, 1, 2, 3)?;
    tdh_import_abort(lp, TDR, 1, 2)?;
    tdh_import_track(lp, TDR, 1, 2)?;
    tdh_import_end(lp, TDR)?;
    tdh_import_commit(lp, TDR)?;
    tdh_import_mem(lp, lists(), 7, TDR)?;
    tdh_import_state_immutable(lp, TDR, 1, 2, 3)?;
    tdh_import_state_td(lp, TDR, 1, 2, 3)?;
    tdh_import_state_vp(lp, TDVPR, 1, 2, 3)?;
    Ok(())
}

/// Calls every guest wrapper once but TDG.VP.VMCALL, with no operand 0.
fn every_guest_leaf(cpu: &mut Recorder) -> Result<(), CallError> {
    let gpa = Gpa::new(0x6000);
    tdg_vp_info(cpu)?;
    tdg_mr_rtmr_extend(cpu, gpa, 1)?;
    tdg_vp_veinfo_get(cpu)?;
    tdg_mr_report(cpu, gpa, gpa, 1)?;
    tdg_mr_verifyreport(cpu, gpa)?;
    tdg_vp_cpuidve_set(cpu, true, true)?;
    tdg_mem_page_accept(cpu, MAPPING)?;
    tdg_mem_page_attr_rd(cpu, gpa)?;
    tdg_mem_page_attr_wr(cpu, MAPPING, 1, 2)?;
    tdg_vm_rd(cpu, FIELD)?;
    tdg_vm_rd_next(cpu, FIELD)?;
    tdg_vm_wr(cpu, FIELD, 1, 2)?;
    tdg_vp_rd(cpu, FIELD)?;
    tdg_vp_wr(cpu, FIELD, 1, 2)?;
    tdg_sys_rd(cpu, FIELD)?;
    tdg_sys_rdall(cpu, gpa, FIELD)?;
    tdg_servtd_rd(cpu, 1, FIELD, [1, 2, 3, 4])?;
    tdg_servtd_wr(cpu, 1, FIELD, 1, 2, [1, 2, 3, 4])?;
    tdg_vp_enter(cpu, 1, gpa)?;
    tdg_vp_invept(cpu, 2)?;
    tdg_vp_invvpid(cpu, 1, 2)?;
    Ok(())
}

/// The registers of one side of a row, with ranges and lists taken apart; RAX and XMMs aside.
fn registers(row: &serde_json::Value, side: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in row[side].as_array().into_iter().flatten() {
        let text = entry["reg"].as_str().expect("a register");
        for part in text
            .split(',')
            .filter(|p| !p.starts_with("XMM") && *p != "RAX")
        {
            match part.split_once('-') {
                Some((from, to)) => {
                    let number = |r: &str| r.trim_start_matches('R').parse::<u32>().expect("R8..");
                    found.extend((number(from)..=number(to)).map(|n| format!("R{n}")));
                }
                None => {
                    found.insert(part.to_owned());
                }
            }
        }
    }
    found
}

fn check(file: &str, calls: &[(LeafWord, TdxModuleArgs, Traffic)], aside: &[(u16, &str)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/tdx-abi")
        .join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("SKIPPED {file}: the folder ../shared is absent");
        return;
    };
    let table: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut used: BTreeMap<u16, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    for (leaf, args, traffic) in calls {
        let (inputs, outputs) = used.entry(leaf.number()).or_default();
        let crossing = if *traffic == Traffic::Saved { 13 } else { 6 };
        for (n, (reg, value)) in TdxModuleArgs::REGS
            .into_iter()
            .zip(args.to_array())
            .enumerate()
        {
            if value != 0 {
                assert!(
                    n < crossing,
                    "leaf {} sets {reg}, which does not cross",
                    leaf.number()
                );
                inputs.insert(reg.name().to_owned());
            }
            if *traffic != Traffic::In && n < crossing {
                outputs.insert(reg.name().to_owned());
            }
        }
    }
    let mut checked = 0;
    for row in table["leaves"].as_array().expect("leaves") {
        let number = row["number"].as_str().expect("a number");
        let number = u16::from_str_radix(number.trim_start_matches("0x"), 16).expect("hexadecimal");
        if row["implemented"] != true || number == 0 {
            continue;
        }
        let name = row["name"].as_str().expect("a name");
        let (inputs, outputs) = used
            .get(&number)
            .unwrap_or_else(|| panic!("no wrapper of {name}"));
        // Operands that must be 0, so that a wrapper need not offer them.
        let mut listed = registers(row, "in");
        for (_, reg) in aside.iter().filter(|(n, _)| *n == number) {
            assert!(listed.remove(*reg), "{name} {reg}");
        }
        assert_eq!(*inputs, listed, "inputs of {name}");
        let missing: Vec<_> = registers(row, "out").difference(outputs).cloned().collect();
        assert!(
            missing.is_empty(),
            "outputs of {name}: {missing:?} do not come back"
        );
        checked += 1;
    }
    assert!(checked > 15, "only {checked} rows");
}

#[test]
fn host_wrappers_pass_and_return_the_registers_of_the_table() {
    let mut lp = Recorder::default();
    every_host_leaf(&mut lp).expect("success");
    check("seamcall-leaves.json", &lp.calls, &[(33, "RCX")]);
}

#[test]
fn guest_wrappers_pass_and_return_the_registers_of_the_table() {
    let mut cpu = Recorder::default();
    every_guest_leaf(&mut cpu).expect("success");
    let own = [(7, "RCX"), (8, "RCX"), (9, "RCX"), (10, "RCX")];
    check("tdcall-leaves.json", &cpu.calls, &own);
}

#[test]
fn results_come_from_their_registers() {
    let (rcx, rdx, r8, r9) = (answer(0), answer(1), answer(2), answer(3));
    let (r10, r11) = (answer(4), answer(5));
    let lp = &mut Recorder::default();
    assert_eq!(tdh_mng_rd(lp, TDR, FIELD), Ok(r8));
    let next = tdh_vp_rd_next(lp, TDVPR, FIELD).expect("success");
    assert_eq!((next.value, next.next), (r8, FieldId(rdx)));
    assert_eq!(tdh_sys_info(lp, PAGE, 1024, PAGE, 32), Ok((rdx, r9)));
    assert_eq!(tdh_sys_tdmr_init(lp, PAGE), Ok(Hpa::new(rdx)));
    assert_eq!(tdh_mem_page_remove(lp, MAPPING, TDR), Ok(Hpa::new(rcx)));
    let (entry, attributes) = tdh_mem_sept_rd(lp, MAPPING, TDR).expect("success");
    assert_eq!((entry.entry.0, entry.info.0, attributes), (rcx, rdx, r8));
    let pages = tdh_mem_sept_add_vms(lp, MAPPING, TDR, false, [0; 4]);
    assert_eq!(pages, Ok(Progress::Done([r8, r9, r10, r11])));
    let bound = tdh_servtd_bind(lp, TDR, TDR, 0, 0, 0).expect("success");
    assert_eq!(bound, (rcx, [r10, r11, answer(6), answer(7)]));
    let info = tdg_vp_veinfo_get(lp).expect("success");
    assert_eq!(
        (info.exit_reason, info.qualification, info.gla, info.gpa),
        (rcx as u32, rdx, r8, r9)
    );
}

#[test]
fn an_error_names_leaf_and_operand_and_keeps_the_words() {
    let status = Status::OPERAND_BUSY.with_operand(tdx_abi::OperandId::TDR);
    let lp = &mut Recorder {
        status: Some(status),
        ..Default::default()
    };
    let error = tdh_mem_page_aug(lp, MAPPING, TDR, PAGE).expect_err("busy");
    let refused = error.refused().expect("the module answered");
    assert_eq!(refused.operand(), Some(tdx_abi::OperandId::TDR));
    assert_eq!(refused.sept_entry().entry.0, answer(0));
    assert!(
        error.to_string().starts_with("TDH.MEM.PAGE.AUG: "),
        "{error}"
    );
    // What only informs is no error; what is interrupted is progress.
    lp.status = Some(Status::KEY_CONFIGURED);
    assert_eq!(tdh_mng_key_config(lp, TDR), Ok(Status::KEY_CONFIGURED));
    lp.status = Some(Status::INTERRUPTED_RESUMABLE);
    let again = tdh_export_blockw(lp, 1, TDR);
    assert_eq!(again, Ok(Progress::Interrupted(answer(0))));
}
