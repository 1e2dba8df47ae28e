//! Compiles the `.proto` files with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["bulrush/v1/sync.proto", "bulrush/v1/entries.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let descriptors = compiler.file_descriptor_set();

    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("bulrush.bin");
    std::fs::write(out, compiler.encode_file_descriptor_set())?;

    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        // Frames are shared between agents: a value must not be copied to be held twice.
        .bytes(".bulrush.v1.KeyValue.value")
        .compile_fds(descriptors)?;
    Ok(())
}
