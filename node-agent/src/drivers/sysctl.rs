//! Sysctls by way of `/proc/sys`.

use std::{fs, io};

use super::Sysctl;

/// `/proc/sys` as the calling thread sees it: `net` in there is its own network namespace's.
pub struct ProcSys;

impl Sysctl for ProcSys {
    fn get(&mut self, path: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/sys/{path}")).map(|text| text.trim_end().to_owned())
    }

    fn set(&mut self, path: &str, value: &str) -> io::Result<()> {
        fs::write(format!("/proc/sys/{path}"), value)
    }
}
