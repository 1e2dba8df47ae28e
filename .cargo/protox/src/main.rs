//! As much of protoc as prost-build calls: `-I DIR`, `-o FILE`, imports and source info, files.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut includes, mut files, mut output) = (Vec::new(), Vec::new(), None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-I" => includes.push(PathBuf::from(args.next().ok_or("-I needs a folder")?)),
            "-o" => output = args.next(),
            "--version" => {
                println!("libprotoc 3.21.0");
                return Ok(());
            }
            // Always on here.
            "--include_imports" | "--include_source_info" | "--experimental_allow_proto3_optional" => {}
            other if other.starts_with('-') => return Err(format!("unknown option {other}").into()),
            _ => files.push(PathBuf::from(arg)),
        }
    }
    let output = output.ok_or("-o FILE is missing")?;
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    std::fs::write(output, compiler.encode_file_descriptor_set())?;
    Ok(())
}
