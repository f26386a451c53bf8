//! EDK II firmware boots as a TD: an EFI application, and Debian by fw_cfg and from a disk, on 1 and 4 vCPUs.

#[path = "program/artifacts.rs"]
mod artifacts;
#[path = "program/folder.rs"]
mod folder;
mod program;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use artifacts::guest;
use folder::Folder;
use program::folder_of_ovmf;
use serde_json::Value;

fn crates_image() -> Option<PathBuf> {
    folder_of_ovmf().map(|folder| folder.join("OVMF.inteltdx.fd"))
}

fn run(firmware: &Path, kernel: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args(["run", "--json", "--quiet", "--timeout", "500", "--firmware"])
        .arg(firmware)
        .arg("--kernel")
        .arg(kernel)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

/// An EFI application of one section that prints a line and switches off.
fn application(text: &str) -> Vec<u8> {
    #[rustfmt::skip]
    let mut code = vec![
        0x48, 0x83, 0xEC, 0x28,                     // sub rsp, 40
        0x48, 0x89, 0xD3,                           // mov rbx, rdx: the system table
        0x48, 0x8B, 0x4B, 0x40,                     // mov rcx, [rbx + 0x40]: ConOut
        0x48, 0x8D, 0x15, 0x1B, 0x00, 0x00, 0x00,   // lea rdx, the text
        0xFF, 0x51, 0x08,                           // call [rcx + 8]: OutputString
        0x48, 0x8B, 0x43, 0x58,                     // mov rax, [rbx + 0x58]: RuntimeServices
        0xB9, 0x02, 0x00, 0x00, 0x00,               // mov ecx, 2: EfiResetShutdown
        0x31, 0xD2,                                 // xor edx, edx
        0x4D, 0x31, 0xC0,                           // xor r8, r8
        0x4D, 0x31, 0xC9,                           // xor r9, r9
        0xFF, 0x50, 0x68,                           // call [rax + 0x68]: ResetSystem
        0xF4, 0xEB, 0xFD,                           // hlt, for ever
        0x90,
    ];
    assert_eq!(code.len(), 18 + 0x1B, "where the text begins");
    for unit in text.encode_utf16().chain([0x0D, 0x0A, 0]) {
        code.extend(unit.to_le_bytes());
    }
    code.resize(0x1000, 0);

    let mut file = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3C, &0x80u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x84, &0x8664u16.to_le_bytes());
    put(0x86, &1u16.to_le_bytes()); // sections
    put(0x94, &240u16.to_le_bytes()); // size of the optional header
    put(0x96, &0x0022u16.to_le_bytes()); // executable, large addresses
    put(0x98, &0x20Bu16.to_le_bytes()); // PE32+
    put(0x98 + 4, &0x1000u32.to_le_bytes()); // size of code
    for (at, word) in [(16, 0x1000), (20, 0x1000), (32, 0x1000), (36, 0x1000)] {
        put(0x98 + at, &u32::to_le_bytes(word)); // entry, base of code, alignments
    }
    put(0x98 + 56, &0x2000u32.to_le_bytes()); // size of the image
    put(0x98 + 60, &0x1000u32.to_le_bytes()); // and of its headers
    put(0x98 + 68, &10u16.to_le_bytes()); // EFI application
    put(0x98 + 108, &16u32.to_le_bytes()); // directories
    let section = 0x98 + 240;
    put(section, b".text\0\0\0");
    for (at, word) in [(8, 0x1000), (12, 0x1000), (16, 0x1000), (20, 0x1000)] {
        put(section + at, &u32::to_le_bytes(word)); // sizes and places
    }
    put(section + 36, &0x6000_0020u32.to_le_bytes()); // code, executable, readable
    file.extend(code);
    file
}

#[test]
fn an_efi_application_given_as_kernel_runs_on_each_firmware() {
    let folder = Folder::new("ovmf-application");
    let kernel = folder.file("hello.efi", &application("hello from EFI"));
    let debian = ["ovmf-trixie/OVMF.fd", "ovmf-bookworm/OVMF.fd"];
    let images = debian.into_iter().filter_map(guest).chain(crates_image());
    for firmware in images {
        let output = run(&firmware, Path::new(&kernel), &["--memory", "128M"]);
        let console = String::from_utf8_lossy(&output.stderr);
        let name = firmware.display();
        assert_eq!(output.status.code(), Some(0), "{name}:\n{console}");
        assert!(console.contains("hello from EFI\r\n"), "{name}:\n{console}");
    }
}

/// The bytes behind what `hexdump -C` printed: a line that repeats the one before is left out, its end is told.
fn bytes_of_hexdump(console: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let lines = console.lines().map(str::trim_end);
    for line in lines.skip_while(|line| !line.starts_with("00000000  ")) {
        if line == "*" {
            continue;
        }
        let mut words = line.split_whitespace();
        let Some(Ok(offset)) = words.next().map(|word| usize::from_str_radix(word, 16)) else {
            break;
        };
        while bytes.len() < offset {
            bytes.push(bytes[bytes.len() - 16]);
        }
        let hex = words.map_while(|word| match word.len() {
            2 => u8::from_str_radix(word, 16).ok(),
            _ => None,
        });
        bytes.extend(hex.take(16));
    }
    bytes
}

#[test]
fn debian_boots_through_ovmf_and_the_event_log_replays_to_its_rtmrs() {
    let (Some(firmware), Some(kernel), Some(initrd)) = (
        crates_image(),
        guest("linux-6.12/vmlinuz"),
        guest("initramfs-linux-6.12.cpio"),
    ) else {
        return;
    };
    let folder = Folder::new("ovmf-debian");
    let report = folder.path().join("report");
    let exec = "hexdump -C /sys/firmware/acpi/tables/data/CCEL";
    let initrd = initrd.to_str().expect("UTF-8");
    let output = run(
        &firmware,
        &kernel,
        &[
            "--initrd",
            initrd,
            "--append",
            "console=ttyS0",
            "--exec",
            exec,
            "--memory",
            "512M",
            "--report",
            report.to_str().expect("UTF-8"),
        ],
    );
    let console = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{console}");
    for words in [
        "tdx: Guest detected",
        "EFI v2.7 by EDK II",
        "Memory Encryption Features active: Intel TDX",
        "SWTDX-MARKER user space is up",
        "SWTDX-EXIT 0",
    ] {
        assert!(
            console.contains(words),
            "{words:?} is missing in:\n{console}"
        );
    }
    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert_eq!(summary["report"]["hashes_hold"], true);
    assert_eq!(summary["report"]["mrtd_expected"], true);

    let log = folder.file("ccel", &bytes_of_hexdump(&console));
    let line = console.lines().find_map(|line| {
        let (_, line) = line.split_once("Command line: ")?;
        line.trim_end().strip_suffix(" initrd=initrd")
    });
    let measured = Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args(["measure", "--json", "--edk2", "before202411"])
        .arg(&firmware)
        .arg("--kernel")
        .arg(&kernel)
        .args(["--initrd", initrd, "--append"])
        .arg(line.expect("the kernel prints its command line"))
        .arg("--log")
        .arg(&log)
        .arg("--diff")
        .arg(&report)
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&measured.stdout);
    assert_eq!(measured.status.code(), Some(0), "{text}");
    let measured: Value = serde_json::from_slice(&measured.stdout).expect("JSON");
    assert_eq!(measured["mrtd"], summary["mrtd"]);
    // RTMR 1 and 2 are predicted, event by event; RTMR 0 replays.
    let logged = measured["log"].as_array().expect("events");
    for (register, at_least) in [(0, 10), (1, 4), (2, 2)] {
        let events = logged.iter().filter(|event| event["register"] == register);
        assert!(events.count() >= at_least, "RTMR{register}: {text}");
        let rtmr = &summary["report"]["rtmrs"][register];
        let told = measured["verdicts"].as_array().expect("verdicts").iter();
        let replayed = format!("replayed to {}", rtmr.as_str().expect("hexadecimal"));
        let mut told = told.filter_map(|verdict| verdict["text"].as_str());
        assert!(told.any(|text| text.contains(&replayed)), "{text}");
    }
}

#[test]
fn debian_boots_on_four_processors_by_fw_cfg_and_from_a_disk() {
    let (Some(firmware), Some(kernel), Some(initrd), Some(disk)) = (
        guest("ovmf-trixie/OVMF.fd"),
        guest("linux-6.12/vmlinuz"),
        guest("initramfs-linux-6.12.cpio"),
        guest("disk-linux-6.12.img"),
    ) else {
        return;
    };
    let start = |args: &[&std::ffi::OsStr]| {
        // The firmware's waiting processors spin, which only the translator makes cheap.
        Command::new(env!("CARGO_BIN_EXE_swtdx"))
            .args(["run", "--json", "--quiet", "--timeout", "500"])
            .args(["--engine", "translator", "--cpus", "4", "--memory", "512M"])
            .arg("--firmware")
            .arg(&firmware)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    };
    let mut read_only = disk.into_os_string();
    read_only.push(",ro");
    let by_fw_cfg = start(&[
        "--kernel".as_ref(),
        kernel.as_os_str(),
        "--initrd".as_ref(),
        initrd.as_os_str(),
        "--append".as_ref(),
        "console=ttyS0".as_ref(),
    ]);
    let from_disk = start(&["--disk".as_ref(), &read_only]);
    for (way, child) in [("fw_cfg", by_fw_cfg), ("disk", from_disk)] {
        let output = child.wait_with_output().expect("it ends");
        let console = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{way}:\n{console}");
        let marker = "SWTDX-MARKER user space is up on 6.12";
        let line = console.lines().find(|line| line.contains(marker));
        assert!(
            line.is_some_and(|line| line.contains("with 4 processors")),
            "{way}:\n{console}"
        );
    }
}
