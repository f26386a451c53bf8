fn main() {
    println!("swtdx {}", env!("CARGO_PKG_VERSION"));
}
