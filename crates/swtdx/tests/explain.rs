//! `swtdx explain`, as a user sees it.

mod program;

use program::swtdx;
use tdx_abi::{Attributes, ReportType, TdReport, Xfam};

#[test]
fn a_busy_secure_ept() {
    insta::assert_snapshot!(swtdx(&["explain", "0x8000020000000092"], ""));
}

#[test]
fn names_of_all_kinds() {
    insta::assert_snapshot!(swtdx(
        &[
            "explain",
            "OPERAND_BUSY(TDR)",
            "tdh_mem_range_block",
            "TDG.MR.REPORT",
            "TD_CTLS",
            "EPT_VIOLATION"
        ],
        ""
    ));
}

#[test]
fn a_number_that_may_be_many_things() {
    insta::assert_snapshot!(swtdx(&["explain", "48"], ""));
}

#[test]
fn words_with_their_kind() {
    insta::assert_snapshot!(swtdx(
        &[
            "explain",
            "gpa:0x80200001",
            "gpa:0x1001",
            "mask:0xffcc",
            "mask:0x10001",
            "attributes:0x10000001",
            "attributes:0x4",
            "xfam:0x61ae7",
            "xfam:0x80023",
            "config:0x6",
            "sept:0x8000000000000000,0x0",
            "sept:0x80000000123450b7,0x400",
            "info:0xc402",
            "vmcall:0x10001",
            "vmcall:0x99",
            "leaf:0x10003",
            "leaf:0x10002",
            "leaf:42",
            "tdcall:0",
            "field:0x9410000300000200",
            "field:0xffffffffffffffff"
        ],
        ""
    ));
}

#[test]
fn exits_with_qualifications() {
    insta::assert_snapshot!(swtdx(
        &[
            "explain",
            "exit:48,0x182,0x6",
            "exit:0x400000e",
            "exit:30,0x3f80008",
            "exit:28,0x300",
            "exit:77,0xfc00",
            "eeq:0x420100000001",
            "eeq:9",
            "intr:0x80000b0e"
        ],
        ""
    ));
}

#[test]
fn what_is_unknown_is_said_to_be() {
    insta::assert_snapshot!(swtdx(
        &[
            "explain",
            "0xdeadbeefdeadbeef",
            "TDH.NO.SUCH",
            "0xc00001ff00000001"
        ],
        ""
    ));
}

#[test]
fn a_kind_with_something_else_than_numbers_is_refused() {
    insta::assert_snapshot!(swtdx(&["explain", "xfam:all"], ""));
}

#[test]
fn a_path_that_leads_nowhere_is_refused() {
    insta::assert_snapshot!(swtdx(&["explain", "/no/such/report.bin"], ""));
}

#[test]
fn a_kernel_log() {
    let log = "\
[    0.000000] Linux version 6.16.0
[    1.204112] virt/tdx: BIOS enabled: private KeyID range [64, 128)
[   20.100041] virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20240129, build_num 698
[   20.100050] virt/tdx: CMR: [0x100000, 0x77800000)
[   20.401234] virt/tdx: 1050644 KB allocated for PAMT
[   20.500000] virt/tdx: module initialized
[   90.000001] usb 1-1: new device
[   91.000002] kvm_intel: SEAMCALL TDH_MEM_RANGE_BLOCK failed: 0x8000020000000092
[   91.000003] kvm_intel: SEAMCALL TDH_MEM_PAGE_REMOVE failed: 0xc0000b0800000001
[   91.000004] kvm_intel: SEAMCALL TDH_MEM_PAGE_REMOVE failed: 0xc0000b0800000001
";
    insta::assert_snapshot!(swtdx(&["explain"], log));
}

#[test]
fn a_log_without_tdx() {
    insta::assert_snapshot!(swtdx(&["explain", "-"], "nothing here\n"));
}

#[test]
fn as_json() {
    insta::assert_snapshot!(swtdx(&["explain", "--json", "0x8000020000000092"], ""));
}

#[test]
fn a_report_and_damaged_ones() {
    let mut report = TdReport::default();
    report.report_mac_struct.report_type = ReportType(0x1_0081);
    report.report_mac_struct.report_data[..3].copy_from_slice(&[1, 2, 3]);
    report.tee_tcb_info.tee_tcb_svn[..2].copy_from_slice(&[5, 1]);
    report.td_info.attributes = Attributes::SEPT_VE_DISABLE;
    report.td_info.xfam = Xfam(0xE7);
    report.td_info.mr_td = [0xAB; 48];
    report.td_info.rtmr[1] = [0xCD; 48];
    let folder = std::env::temp_dir().join(format!("swtdx-explain-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let explain = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        let text = swtdx(&["explain", path.to_str().unwrap()], "");
        text.replace(folder.to_str().unwrap(), "FOLDER")
    };
    let bytes = report.to_bytes();
    let mut quote = vec![4, 0, 2, 0, 0x81, 0, 0, 0];
    quote.resize(48 + 584, 0);
    let all = [
        explain("report.bin", &bytes),
        explain("short.bin", &bytes[..1000]),
        explain("other.bin", &[7; 1024]),
        explain("quote.bin", &[&quote[..], &[4, 0, 0, 0, 9, 9]].concat()),
        explain("quote-short.bin", &quote[..600]),
    ];
    std::fs::remove_dir_all(&folder).unwrap();
    insta::assert_snapshot!(all.join("\n"));
}
