//! `swtdx plan`, as a user sees it.

mod program;

use program::swtdx;

#[test]
fn a_desktop_of_10_gib() {
    insta::assert_snapshot!(swtdx(
        &["plan"],
        "[0x100000, 0x77800000)\n[0x100000000, 0x280000000)\n"
    ));
}

/// Ranges of these sizes in GiB: the first below the PCI hole, the second above it, the others on nodes of their own.
fn machine(gib: &[u64]) -> String {
    let starts = [0, 4].into_iter().chain((1..).map(|node| node * 512));
    gib.iter()
        .zip(starts)
        .map(|(size, start)| format!("{:#x}..{:#x}\n", start << 30, (start + size) << 30))
        .collect()
}

#[test]
fn totals_are_those_that_real_hosts_print() {
    for (sizes, total) in [
        (&[2, 126, 64, 32, 32][..], "5 TDMRs; 1050644 KB for PAMTs"),
        (&[2, 254, 256], "3 TDMRs; 2101260 KB for PAMTs"),
        (
            &[2, 253, 256, 256, 256, 256, 256, 256, 255],
            "9 TDMRs; 8396820 KB for PAMTs",
        ),
    ] {
        let text = swtdx(&["plan", "-"], &machine(sizes));
        assert!(text.contains(total), "{text}");
    }
}

#[test]
fn a_kernel_log_with_limits_that_bind() {
    let log = "\
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000000100000-0x00000000bfffffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000100000000-0x00000007ffffffff] usable
[    9.000000] virt/tdx: CMR: [0x100000, 0x6f800000)
[    9.000000] virt/tdx: CMR: [0x70000000, 0x70010000)
[    9.000000] virt/tdx: CMR: [0x100000000, 0x1fffff000)
[    9.000000] virt/tdx: CMR: [0x300000000, 0x800000000)
";
    insta::assert_snapshot!(swtdx(
        &["plan", "--max-tdmrs", "2", "--max-reserved", "2"],
        log
    ));
}

#[test]
fn as_json() {
    insta::assert_snapshot!(swtdx(&["plan", "--json"], "0x100000000..0x140000000\n"));
}

#[test]
fn wrong_input_names_the_line() {
    let cases = [
        swtdx(&["plan", "/no/such/file"], ""),
        swtdx(&["plan"], ""),
        swtdx(&["plan"], "# only a comment\n"),
        swtdx(&["plan"], "0x1000..0x2000\nnonsense\n"),
        swtdx(&["plan"], "0x3000..0x2000\n"),
        swtdx(&["plan"], "0x1000..0x3000\n0x2000..0x4000\n"),
        swtdx(&["plan"], "0x1000..0x3000\n"),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}
