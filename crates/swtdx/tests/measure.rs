//! `swtdx measure`, as a user sees it, on a real firmware image.

#[path = "program/folder.rs"]
mod folder;
mod program;

use folder::Folder;
use program::{folder_of_ovmf, swtdx};
use std::path::Path;
use tdvf::{Image, Mrtd, Order, Step};
use tdx_abi::{ReportType, TdReport};

fn ovmf(folder: &Path) -> (String, Vec<u8>) {
    let path = folder.join("OVMF.inteltdx.fd");
    (
        path.to_str().unwrap().to_owned(),
        std::fs::read(path).unwrap(),
    )
}

/// A report with these measurements.
fn report(mrtd: [u8; 48], rtmr: [[u8; 48]; 4]) -> [u8; 1024] {
    let mut report = TdReport::default();
    report.report_mac_struct.report_type = ReportType(ReportType::TDX);
    report.td_info.mr_td = mrtd;
    report.td_info.rtmr = rtmr;
    report.to_bytes()
}

fn mrtd<'a>(steps: impl Iterator<Item = Step<'a>>) -> [u8; 48] {
    let mut mrtd = Mrtd::new();
    steps.for_each(|step| mrtd.step(&step));
    mrtd.finish()
}

/// A PE image that is small enough to stand here.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[..2].copy_from_slice(b"MZ");
    file[0x3C] = 0x40;
    file[0x40..0x44].copy_from_slice(b"PE\0\0");
    file[0x46] = 1;
    file[0x54] = 240;
    file[0x58..0x5A].copy_from_slice(&[0x0B, 2]);
    file[0x58 + 61] = 2;
    file[0x58 + 108] = 16;
    file[0x58 + 240 + 17] = 2;
    file[0x58 + 240 + 21] = 2;
    file
}

#[test]
fn an_image_in_both_orders_with_what_was_expected() {
    let Some(folder) = folder_of_ovmf() else {
        return;
    };
    let (path, _) = ovmf(&folder);
    let golden = "88c63708f207ab01a46b4d9424ea92ab11f8826be30d208afbb58f174f2a19cdcfafb2b12a6a2c98be0740b808894d55";
    let pages = swtdx(&["measure", &path, "--expect", golden], "");
    let passes = swtdx(
        &[
            "measure",
            &path,
            "--order",
            "two-passes",
            "--expect",
            "307c9a6831bdd6e6",
        ],
        "",
    );
    let wrong = swtdx(&["measure", &path, "--expect", "mrtd=0123456789abcdef"], "");
    let all = [pages, passes, wrong]
        .join("\n")
        .replace(&path, "OVMF.inteltdx.fd");
    insta::assert_snapshot!(all);
}

#[test]
fn a_kernel_with_its_events() {
    let Some(folder) = folder_of_ovmf() else {
        return;
    };
    let (path, _) = ovmf(&folder);
    let own = Folder::new("measure-kernel");
    let (kernel, initrd) = (own.file("vmlinuz", &kernel()), own.file("initrd", b"cpio"));
    let args = [
        "measure",
        &path,
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        "console=ttyS0",
        "--events",
    ];
    let text = own
        .hide(&swtdx(&args, ""), "FOLDER")
        .replace(&path, "OVMF.inteltdx.fd");
    insta::assert_snapshot!(text);
    let json = swtdx(&["measure", &path, "--kernel", &kernel, "--json"], "");
    let json = json
        .trim_start_matches("exit status 0\n--- output\n")
        .trim_end_matches("--- errors\n");
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["events"].as_array().unwrap().len(), 6);
    assert_eq!(json["rtmr"][0], serde_json::Value::Null);
}

#[test]
fn the_td_of_a_kernel_has_the_predicted_mrtd() {
    let own = Folder::new("measure-kernel-td");
    let (kernel, initrd) = (
        own.file("vmlinuz", &bz_image()),
        own.file("initrd", b"cpio"),
    );
    let guest = [
        "--kernel", &kernel, "--initrd", &initrd, "--append", "quiet", "--memory", "64M",
    ];
    // There is no code in this kernel: the TD ends as soon as it starts it.
    let ran = swtdx(&[&["run"], &guest[..]].concat(), "");
    let mrtd = ran
        .lines()
        .find_map(|line| line.strip_prefix("swtdx: MRTD"))
        .expect(&ran)
        .trim();
    let text = swtdx(&[&["measure", "--expect", mrtd], &guest[..]].concat(), "");
    assert!(
        text.starts_with("exit status 0") && text.contains("MRTD: as expected"),
        "{text}"
    );
}

/// The least bzImage that the direct-boot firmware starts.
fn bz_image() -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    file[0x1F1] = 1; // setup sectors
    file[0x1F4] = 0xC0; // the rest, in 16 bytes
    file[0x202..0x208].copy_from_slice(b"HdrS\x0C\x02");
    file[0x232] = 0x20; // alignment 2 MiB
    file[0x236] = 1; // 64-bit entry
    file[0x239] = 8; // command line limit 2048
    file[0x25B] = 1; // preferred address 16 MiB
    file[0x262] = 0x10; // init_size 1 MiB
    file
}

#[test]
fn without_firmware_it_is_the_td_of_swtdx_run_with_all_registers() {
    let own = Folder::new("measure-direct");
    let (kernel, initrd) = (
        own.file("vmlinuz", &bz_image()),
        own.file("initrd", b"cpio"),
    );
    let args = |more: &[&'static str]| {
        let mut args = vec![
            "measure", "--kernel", &kernel, "--initrd", &initrd, "--append", "quiet", "--json",
        ];
        args.extend(more);
        let text = swtdx(&args, "");
        let json = text
            .trim_start_matches("exit status 0\n--- output\n")
            .trim_end_matches("--- errors\n")
            .to_owned();
        serde_json::from_str::<serde_json::Value>(&json).unwrap_or_else(|_| panic!("{text}"))
    };
    let json = args(&[]);
    let events: Vec<_> = json["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        ["td_hob", "acpi_tables", "kernel", "cmdline", "initrd"]
    );
    use sha2::{Digest, Sha384};
    let sha = |bytes: &[u8]| -> [u8; 48] { Sha384::digest(bytes).into() };
    assert_eq!(
        hex(json["rtmr"][1].as_str().unwrap()),
        extend([0; 48], sha(&bz_image()))
    );
    let rtmr2 = extend(extend([0; 48], sha(b"quiet\0")), sha(b"cpio"));
    assert_eq!(hex(json["rtmr"][2].as_str().unwrap()), rtmr2);
    // What the VMM makes depends on the machine: processors are in the ACPI tables, memory in the TD HOB.
    let (more_cpus, more_memory) = (args(&["--cpus", "2"]), args(&["--memory", "512M"]));
    assert_ne!(json["rtmr"][0], more_cpus["rtmr"][0]);
    assert_ne!(json["rtmr"][0], more_memory["rtmr"][0]);
    assert_eq!(json["rtmr"][1], more_cpus["rtmr"][1]);
}

#[test]
fn a_report_that_differs_is_explained() {
    let Some(folder) = folder_of_ovmf() else {
        return;
    };
    let (path, bytes) = ovmf(&folder);
    let image = Image::parse(&bytes).unwrap();
    let own = Folder::new("measure-diff");
    let kernel = own.file("vmlinuz", &kernel());
    let diff = |name: &str, mrtd: [u8; 48], rtmr: [[u8; 48]; 4]| {
        let report = own.file(name, &report(mrtd, rtmr));
        let text = swtdx(
            &["measure", &path, "--kernel", &kernel, "--diff", &report],
            "",
        );
        let verdicts = text
            .lines()
            .filter(|l| l.contains(": ") && !l.contains("bytes,"))
            .map(|l| format!("{l}\n"));
        let code = text.lines().next().unwrap();
        format!("{name}: {code}\n{}", verdicts.collect::<String>())
    };
    let plan = || image.plan(Order::PageByPage);
    let section = |step: &Step<'_>| match step {
        Step::AddPage { section, .. }
        | Step::AugPage { section, .. }
        | Step::Extend { section, .. } => *section,
    };
    let right = mrtd(plan());
    let not_measured = mrtd(plan().filter(|step| !matches!(step, Step::Extend { .. })));
    let mut turned = bytes.clone();
    turned[image.descriptor_offset() + 16 + 32 + 28] ^= 1;
    let cfv_measured = mrtd(Image::parse(&turned).unwrap().plan(Order::PageByPage));
    // RTMR 1 after its first two events: the kernel of `fn kernel`, then the firmware's first action.
    let json = swtdx(&["measure", &path, "--kernel", &kernel, "--json"], "");
    let json = json
        .trim_start_matches("exit status 0\n--- output\n")
        .trim_end_matches("--- errors\n");
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let digest = |index: usize| hex(json["events"][index]["digest"].as_str().unwrap());
    let two_events = extend(extend([0; 48], digest(0)), digest(1));
    let cases = [
        diff(
            "other order",
            mrtd(image.plan(Order::TwoPasses)),
            [[0; 48]; 4],
        ),
        diff("BFV not measured", not_measured, [[0; 48]; 4]),
        diff("CFV measured", cfv_measured, [[0; 48]; 4]),
        diff(
            "no TD HOB",
            mrtd(plan().filter(|step| section(step) != 4)),
            [[0; 48]; 4],
        ),
        diff("another image", [9; 48], [[7; 48]; 4]),
        diff(
            "stopped early",
            right,
            [[0; 48], two_events, [0; 48], [0; 48]],
        ),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}

fn hex(text: &str) -> [u8; 48] {
    core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

fn extend(old: [u8; 48], digest: [u8; 48]) -> [u8; 48] {
    use sha2::Digest;
    sha2::Sha384::new()
        .chain_update(old)
        .chain_update(digest)
        .finalize()
        .into()
}

#[test]
fn the_prediction_is_what_a_td_that_ran_reports() {
    let own = Folder::new("measure-ran");
    let image = own.file("embedded.tdvf", guest_images::EMBEDDED.tdvf);
    let report = own.path().join("report.bin");
    let ran = swtdx(
        &["run", "--quiet", "--report", report.to_str().unwrap()],
        "",
    );
    assert!(ran.starts_with("exit status 0"), "{ran}");
    let text = swtdx(&["measure", &image, "--diff", report.to_str().unwrap()], "");
    assert!(text.contains("MRTD: as reported"), "{text}");
    let wrong = swtdx(
        &[
            "measure",
            &image,
            "--order",
            "two-passes",
            "--diff",
            report.to_str().unwrap(),
        ],
        "",
    );
    assert!(
        wrong.contains("it is this image measured page by page"),
        "{wrong}"
    );
    // And explain reads the same report.
    let explained = swtdx(&["explain", report.to_str().unwrap()], "");
    let mrtd = text
        .lines()
        .find_map(|line| line.strip_prefix("MRTD   "))
        .unwrap();
    assert!(explained.contains(mrtd), "{explained}");
}

#[test]
fn wrong_input_is_one_line_that_names_the_file() {
    let own = Folder::new("measure-wrong");
    let (empty, kernel) = (own.file("empty.fd", &[]), own.file("vmlinuz", &bz_image()));
    let embedded = own.file("embedded.tdvf", guest_images::EMBEDDED.tdvf);
    let cases: Vec<String> = [
        vec!["measure"],
        vec!["measure", "/no/such/file.fd"],
        vec!["measure", &empty],
        vec![
            "measure",
            "--kernel",
            &kernel,
            "--expect",
            "rtmr7=0011223344",
        ],
        vec!["measure", "--kernel", &kernel, "--expect", "0011"],
        vec!["measure", &embedded, "--expect", "rtmr0=0011223344"],
        vec!["measure", "--kernel", &kernel, "--diff", &kernel],
    ]
    .iter()
    .map(|args| own.hide(&swtdx(args, ""), "FOLDER"))
    .collect();
    insta::assert_snapshot!(cases.join("\n"));
}
