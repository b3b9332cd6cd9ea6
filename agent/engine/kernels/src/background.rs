/// The lowest priority of the usual scheduler.
const LOWEST: i32 = 19;

/// Has the thread that calls this, and those that it starts from now on, run when nobody else wants to. There is no way back.
///
/// # Errors
/// When the system refuses.
pub fn give_way_to_others() -> std::io::Result<()> {
    // Linux has a priority for each thread, whatever POSIX says; `None` is the one that calls.
    Ok(rustix::process::setpriority_process(None, LOWEST)?)
}
