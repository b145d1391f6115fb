//! The code of the program as memory of the process.

use std::ffi::{c_int, c_void};
use std::ptr;

use rustix::param::page_size;

/// Unmaps the code and the constants of the program and its libraries that have been read so far, so that the memory of the
/// process is what it needs from now on, and not what its start needed. Pages that are needed again come from the page cache, by
/// minor faults.
pub fn unmap_code_pages() {
    // SAFETY: `unmap` has the type of a callback, and it uses what it is given only during the call.
    unsafe { libc::dl_iterate_phdr(Some(unmap), ptr::null_mut()) };
}

/// Unmaps the read-only segments of one object.
unsafe extern "C" fn unmap(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: `dl_iterate_phdr` passes a description that is valid during the call, with `dlpi_phnum` headers.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    let page = page_size() as u64;
    // The vDSO, which is memory of the kernel and no file, has neither.
    let is_file =
        headers.iter().any(|header| header.p_type == libc::PT_INTERP || header.p_type == libc::PT_TLS);
    for header in headers.iter().filter(|header| is_file && header.p_type == libc::PT_LOAD) {
        if header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let from = (base + header.p_vaddr).next_multiple_of(page);
        let until = (base + header.p_vaddr + header.p_memsz) / page * page;
        if from < until {
            // SAFETY: the pages are whole and lie in a segment of a file that is mapped privately and was never written: relocations
            // change only segments with PF_W. They are read from the file again when they are touched. An error changes nothing.
            unsafe { libc::madvise(from as *mut c_void, (until - from) as usize, libc::MADV_DONTNEED) };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn code_and_constants_are_as_before() {
        let text = "a constant that is read again".to_owned();
        for _ in 0..3 {
            super::unmap_code_pages();
            assert_eq!(text, "a constant that is read again");
        }
    }
}
