//! What a process uses: processor time and memory, as the kernel counts them.

use std::{fs, io, time::Duration};

use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    time::ClockId,
    unistd::{Pid, SysconfVar, sysconf},
};

/// Processor time of a process so far: all its threads, and those that have ended.
pub(crate) fn cpu_time(pid: u32) -> io::Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.cast_signed()))?;
    Ok(clock.now()?.into())
}

/// Processor time of all of them so far; none: there are none.
pub(crate) fn cpu_of(processes: &[u32]) -> io::Result<Option<Duration>> {
    let times = processes.iter().map(|pid| cpu_time(*pid));
    Ok(Some(times.sum::<io::Result<Duration>>()?).filter(|_| !processes.is_empty()))
}

/// Resident memory of all of them that are there, bytes; none: none is.
pub(crate) fn rss_of(processes: &[u32]) -> Option<u64> {
    let sizes: Vec<u64> = processes.iter().filter_map(|pid| rss(*pid).ok()).collect();
    (!sizes.is_empty()).then(|| sizes.iter().sum())
}

/// So many of the kernel's ticks, as a time.
pub(crate) fn ticks(count: u64) -> io::Result<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100).cast_unsigned();
    Ok(Duration::from_millis(count * 1000 / per_second))
}

/// Resident memory of a process, bytes.
pub(crate) fn rss(pid: u32) -> io::Result<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = statm.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096).cast_unsigned();
    Ok(pages.unwrap_or_default() * page)
}

/// Memory that the kernel holds for all TCP sockets of this machine's network, bytes.
pub(crate) fn socket_memory() -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/net/sockstat")?;
    let line = stat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split_once(" mem ").and_then(|(_, pages)| pages.trim().parse::<u64>().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096).cast_unsigned();
    Ok(pages.unwrap_or_default() * page)
}

/// How many open files a process with so many agents needs, and a server of them: one each, and some that are being
/// closed.
pub(crate) fn files_of(agents: u32) -> u64 {
    u64::from(agents + (agents / 20).min(100)) + 150
}

/// How many agents a server may have with the files that a process may open here, at most `wanted`.
pub(crate) fn most_agents(wanted: u32) -> u32 {
    match raise_open_files(files_of(wanted)) {
        Ok(()) => wanted,
        Err(limit) => u32::try_from(limit.saturating_sub(250)).unwrap_or(wanted).min(wanted),
    }
}

/// Makes room for so many open files, here and in the children that come.
///
/// # Errors
/// The hard limit is lower; it is what the error carries.
pub(crate) fn raise_open_files(wanted: u64) -> Result<(), u64> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_err() {
        return Err(hard);
    }
    let limit = hard.max(wanted);
    if soft < limit && setrlimit(Resource::RLIMIT_NOFILE, limit, limit).is_err() {
        return Err(soft);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_used_counts_after_its_end() {
        let this = std::process::id();
        let before = cpu_time(this).unwrap();
        let used = std::thread::spawn(|| {
            let clock = ClockId::CLOCK_THREAD_CPUTIME_ID;
            loop {
                let used = Duration::from(clock.now().unwrap());
                if used >= Duration::from_millis(30) {
                    return used;
                }
            }
        });
        let used = used.join().unwrap();
        assert!(cpu_time(this).unwrap() >= before + used);
    }
}
