//! The measurement of Intel's OVMF image, which others have published.

mod life;

use life::{Bench, GIB, ovmf};
use tdvf::Image;
use tdx_host::TdConfig;
use tdx_platform::Guests;

const MRTD: &str = "88c63708f207ab01a46b4d9424ea92ab11f8826be30d208afbb58f174f2a19cdcfafb2b12a6a2c98be0740b808894d55";

#[test]
fn a_td_built_page_by_page_from_ovmf_has_the_published_mrtd() {
    let Some(bytes) = ovmf() else { return };
    assert_eq!(bytes.len(), 2_097_152);
    let image = Image::parse(&bytes).expect("a TDVF image");
    let mut bench = Bench::new(1, 1, 2 * GIB, Guests::scripted(|_| {}));
    let free = bench.host.free_pages();
    let td = bench.td(TdConfig::default().debug(true)); // whose MRTD the host may read
    let vcpu = bench.vcpu(&td);
    td.add_ram(0..GIB).expect("guest RAM");
    let lp = &mut bench.lps[0].seam;
    td.load_image(&bench.host, lp, &image, |_| None, |_, _| {})
        .expect("the image loads");
    td.finalize(lp).expect("the measurement is closed");
    let mrtd = td
        .mrtd(lp)
        .expect("MRTD is readable")
        .expect("it is finalized");
    let mrtd: String = mrtd.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(mrtd, MRTD);
    td.destroy(&bench.host, &mut bench.lps, vec![vcpu])
        .expect("teardown");
    assert_eq!(bench.host.free_pages(), free, "every page came back");
}
