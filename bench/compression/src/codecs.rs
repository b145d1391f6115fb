//! Every candidate behind one interface: a whole message in, a whole message out.

use std::mem::MaybeUninit;

use echoring_proto::deflate;
use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor};
use libz_sys as z;
use miniz_oxide::deflate::core as miniz_deflate;
use miniz_oxide::inflate::core as miniz_inflate;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush};

pub const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
const WINDOW_BYTES: usize = 1 << 15;

pub trait Codec {
    /// Converts one message; the result is `out[..n]`. `out` must be large enough.
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize;
}

/// A candidate's name, whether it uses context takeover, and its constructor.
pub struct Candidate {
    pub name: &'static str,
    pub takeover: bool,
    pub make: fn() -> Box<dyn Codec>,
}

const fn fresh(name: &'static str, make: fn() -> Box<dyn Codec>) -> Candidate {
    Candidate { name, takeover: false, make }
}

const fn kept(name: &'static str, make: fn() -> Box<dyn Codec>) -> Candidate {
    Candidate { name, takeover: true, make }
}

/// The first candidate of each kind is the baseline.
pub const DEFLATERS: &[Candidate] = &[
    fresh("zlib 6", || Box::new(CDeflate::new(6, 8, false))),
    fresh("zlib 1", || Box::new(CDeflate::new(1, 8, false))),
    fresh("zlib-rs 1", || Box::new(ZlibRsDeflate::new(1, 15, 8, false))),
    fresh("zlib-rs 2", || Box::new(ZlibRsDeflate::new(2, 15, 8, false))),
    fresh("zlib-rs 3", || Box::new(ZlibRsDeflate::new(3, 15, 8, false))),
    fresh("zlib-rs 6", || Box::new(ZlibRsDeflate::new(6, 15, 8, false))),
    fresh("zlib-rs 1, window 11, memory 5", || Box::new(ZlibRsDeflate::new(1, 11, 5, false))),
    fresh("zlib-rs 6, memory 6", || Box::new(ZlibRsDeflate::new(6, 15, 6, false))),
    fresh("libdeflate 1", || Box::new(LibDeflate::new(1))),
    fresh("libdeflate 2", || Box::new(LibDeflate::new(2))),
    fresh("libdeflate 6", || Box::new(LibDeflate::new(6))),
    fresh("miniz_oxide 1", || Box::new(MinizDeflate::new(1, false))),
    fresh("miniz_oxide 6", || Box::new(MinizDeflate::new(6, false))),
    fresh("echoring 1", || Box::new(OurDeflate::new(1, false))),
    fresh("echoring 6", || Box::new(OurDeflate::new(6, false))),
    kept("zlib 6, kept", || Box::new(CDeflate::new(6, 8, true))),
    kept("zlib-rs 1, kept", || Box::new(ZlibRsDeflate::new(1, 15, 8, true))),
    kept("zlib-rs 1, memory 5, kept", || Box::new(ZlibRsDeflate::new(1, 15, 5, true))),
    kept("zlib-rs 6, memory 5, kept", || Box::new(ZlibRsDeflate::new(6, 15, 5, true))),
    kept("zlib-rs 6, memory 6, kept", || Box::new(ZlibRsDeflate::new(6, 15, 6, true))),
    kept("zlib-rs 2, kept", || Box::new(ZlibRsDeflate::new(2, 15, 8, true))),
    kept("zlib-rs 3, kept", || Box::new(ZlibRsDeflate::new(3, 15, 8, true))),
    kept("zlib-rs 6, kept", || Box::new(ZlibRsDeflate::new(6, 15, 8, true))),
    kept("miniz_oxide 1, kept", || Box::new(MinizDeflate::new(1, true))),
    kept("echoring 1, kept", || Box::new(OurDeflate::new(1, true))),
    kept("echoring 6, kept", || Box::new(OurDeflate::new(6, true))),
];

pub const INFLATERS: &[Candidate] = &[
    fresh("zlib", || Box::new(CInflate::new(false))),
    fresh("zlib-rs", || Box::new(ZlibRsInflate::new(false))),
    fresh("libdeflate", || Box::new(LibInflate::new(false))),
    fresh("miniz_oxide", || Box::new(MinizInflate::new(false))),
    fresh("echoring", || Box::new(OurInflate::new(false))),
    kept("zlib, kept", || Box::new(CInflate::new(true))),
    kept("zlib-rs, kept", || Box::new(ZlibRsInflate::new(true))),
    kept("libdeflate, window in front", || Box::new(LibInflate::new(true))),
    kept("miniz_oxide, window in front", || Box::new(MinizInflate::new(true))),
    kept("echoring, kept", || Box::new(OurInflate::new(true))),
    kept("echoring, window shown each time", || Box::new(OurSharedInflate::new())),
];

struct OurDeflate(deflate::Deflater, Vec<u8>);

impl OurDeflate {
    fn new(level: u8, takeover: bool) -> OurDeflate {
        let direction = deflate::Direction { takeover, window_bits: 15 };
        OurDeflate(deflate::Deflater::new(direction, level), Vec::new())
    }
}

impl Codec for OurDeflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        let bytes = self.0.deflate(input, &mut self.1);
        out[0] = self.1[0];
        bytes
    }
}

struct OurInflate(deflate::Inflater, Vec<u8>);

impl OurInflate {
    fn new(takeover: bool) -> OurInflate {
        OurInflate(deflate::Inflater::new(deflate::Direction { takeover, window_bits: 15 }), Vec::new())
    }
}

impl Codec for OurInflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        let bytes = self.0.inflate(input, &mut self.1, out.len()).expect("good input");
        out[0] = self.1[0];
        bytes
    }
}

/// An inflater that other connections have used since this one's last message.
struct OurSharedInflate(deflate::Inflater, deflate::Window, Vec<u8>);

impl OurSharedInflate {
    fn new() -> OurSharedInflate {
        let direction = deflate::Direction { takeover: false, window_bits: 15 };
        OurSharedInflate(deflate::Inflater::new(direction), deflate::Window::new(15), Vec::new())
    }
}

impl Codec for OurSharedInflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        let OurSharedInflate(inflater, window, scratch) = self;
        // Somebody's empty message.
        inflater.inflate(&[0x00], scratch, out.len()).expect("good input");
        let bytes = inflater.inflate_after(window, input, scratch, out.len()).expect("good input");
        out[0] = scratch[0];
        bytes
    }
}

struct ZlibRsDeflate {
    engine: Deflate,
    takeover: bool,
}

impl ZlibRsDeflate {
    fn new(level: i32, window_bits: i32, mem_level: i32, takeover: bool) -> ZlibRsDeflate {
        let config =
            DeflateConfig { level, window_bits: -window_bits, mem_level, ..DeflateConfig::default() };
        ZlibRsDeflate { engine: Deflate::new_with_config(config), takeover }
    }
}

impl Codec for ZlibRsDeflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        if !self.takeover {
            self.engine.reset();
        }
        let before = self.engine.total_out();
        self.engine.compress(input, out, DeflateFlush::SyncFlush).expect("any input");
        (self.engine.total_out() - before) as usize - TAIL.len()
    }
}

struct ZlibRsInflate {
    engine: Inflate,
    takeover: bool,
}

impl ZlibRsInflate {
    fn new(takeover: bool) -> ZlibRsInflate {
        ZlibRsInflate { engine: Inflate::new(false, 15), takeover }
    }
}

impl Codec for ZlibRsInflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        if !self.takeover {
            self.engine.reset(false);
        }
        let before = self.engine.total_out();
        self.engine.decompress(input, out, InflateFlush::SyncFlush).expect("good input");
        let written = (self.engine.total_out() - before) as usize;
        self.engine.decompress(&TAIL, &mut out[written..], InflateFlush::SyncFlush).expect("good input");
        (self.engine.total_out() - before) as usize
    }
}

struct LibDeflate(Compressor);

impl LibDeflate {
    fn new(level: i32) -> LibDeflate {
        LibDeflate(Compressor::new(CompressionLvl::new(level).expect("a level")))
    }
}

impl Codec for LibDeflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        // Ends in a final block, behind which the extension wants an empty one (RFC 7692, 7.2.3.4).
        let bytes = self.0.deflate_compress(input, out).expect("room");
        out[bytes] = 0;
        bytes + 1
    }
}

struct LibInflate {
    engine: Decompressor,
    takeover: bool,
    window: Vec<u8>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl LibInflate {
    fn new(takeover: bool) -> LibInflate {
        let output = vec![0; if takeover { WINDOW_BYTES + (1 << 18) } else { 0 }];
        LibInflate { engine: Decompressor::new(), takeover, window: Vec::new(), input: Vec::new(), output }
    }
}

impl Codec for LibInflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        self.input.clear();
        if self.takeover && !self.window.is_empty() {
            let bytes = self.window.len() as u16;
            self.input.push(0);
            self.input.extend_from_slice(&bytes.to_le_bytes());
            self.input.extend_from_slice(&(!bytes).to_le_bytes());
            self.input.extend_from_slice(&self.window);
        }
        self.input.extend_from_slice(input);
        self.input.extend_from_slice(&TAIL);
        self.input.extend_from_slice(&[0x03, 0x00]);
        if !self.takeover {
            match self.engine.deflate_decompress(&self.input, out) {
                Ok(bytes) => return bytes,
                Err(DecompressionError::InsufficientSpace) => panic!("room"),
                Err(DecompressionError::BadData) => panic!("good input"),
            }
        }
        let bytes = self.engine.deflate_decompress(&self.input, &mut self.output).expect("good input");
        let message = &self.output[self.window.len()..bytes];
        let message_bytes = message.len();
        out[..message_bytes].copy_from_slice(message);
        let keep = bytes.min(WINDOW_BYTES);
        self.window.clear();
        self.window.extend_from_slice(&self.output[bytes - keep..bytes]);
        message_bytes
    }
}

struct MinizDeflate {
    engine: Box<miniz_deflate::CompressorOxide>,
    takeover: bool,
}

impl MinizDeflate {
    fn new(level: u8, takeover: bool) -> MinizDeflate {
        let flags = miniz_deflate::create_comp_flags_from_zip_params(level.into(), -15, 0);
        MinizDeflate { engine: Box::new(miniz_deflate::CompressorOxide::new(flags)), takeover }
    }
}

impl Codec for MinizDeflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        if !self.takeover {
            self.engine.reset();
        }
        let (_, used, written) =
            miniz_deflate::compress(&mut self.engine, input, out, miniz_deflate::TDEFLFlush::Sync);
        assert_eq!(used, input.len());
        written - TAIL.len()
    }
}

struct MinizInflate {
    engine: Box<miniz_inflate::DecompressorOxide>,
    takeover: bool,
    output: Vec<u8>,
    window_bytes: usize,
}

impl MinizInflate {
    fn new(takeover: bool) -> MinizInflate {
        let output = vec![0; if takeover { WINDOW_BYTES + (1 << 18) } else { 0 }];
        MinizInflate { engine: Box::default(), takeover, output, window_bytes: 0 }
    }

    fn run(&mut self, input: &[u8], out: &mut [u8], at: usize) -> usize {
        use miniz_inflate::inflate_flags::*;
        self.engine.init();
        let more = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | TINFL_FLAG_HAS_MORE_INPUT;
        let (_, used, written) = miniz_inflate::decompress(&mut self.engine, input, out, at, more);
        assert_eq!(used, input.len());
        let end = [0, 0, 0xff, 0xff, 3, 0];
        let last = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, _, more_written) =
            miniz_inflate::decompress(&mut self.engine, &end, out, at + written, last);
        assert_eq!(status, miniz_oxide::inflate::TINFLStatus::Done);
        written + more_written
    }
}

impl Codec for MinizInflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        if !self.takeover {
            return self.run(input, out, 0);
        }
        let mut output = std::mem::take(&mut self.output);
        let at = self.window_bytes;
        let bytes = self.run(input, &mut output, at);
        out[..bytes].copy_from_slice(&output[at..at + bytes]);
        let keep = (at + bytes).min(WINDOW_BYTES);
        output.copy_within(at + bytes - keep..at + bytes, 0);
        self.window_bytes = keep;
        self.output = output;
        bytes
    }
}

/// Stock zlib, as other servers use it.
pub struct CDeflate {
    stream: Box<z::z_stream>,
    takeover: bool,
}

impl CDeflate {
    pub fn new(level: i32, mem_level: i32, takeover: bool) -> CDeflate {
        let mut stream = z_stream();
        // SAFETY: the stream is initialised, pinned in its box, and ended when dropped.
        let status = unsafe {
            z::deflateInit2_(
                &mut *stream,
                level,
                z::Z_DEFLATED,
                -15,
                mem_level,
                z::Z_DEFAULT_STRATEGY,
                z::zlibVersion(),
                size_of::<z::z_stream>() as i32,
            )
        };
        assert_eq!(status, z::Z_OK);
        CDeflate { stream, takeover }
    }
}

impl Codec for CDeflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        let stream = &mut *self.stream;
        // SAFETY: both buffers outlive the call, and their lengths are theirs.
        let status = unsafe {
            if !self.takeover {
                z::deflateReset(stream);
            }
            stream.next_in = input.as_ptr().cast_mut();
            stream.avail_in = input.len() as u32;
            stream.next_out = out.as_mut_ptr();
            stream.avail_out = out.len() as u32;
            z::deflate(stream, z::Z_SYNC_FLUSH)
        };
        assert_eq!(status, z::Z_OK);
        out.len() - stream.avail_out as usize - TAIL.len()
    }
}

impl Drop for CDeflate {
    fn drop(&mut self) {
        // SAFETY: it was initialised, and nobody uses it after this.
        unsafe { z::deflateEnd(&mut *self.stream) };
    }
}

struct CInflate {
    stream: Box<z::z_stream>,
    takeover: bool,
}

impl CInflate {
    fn new(takeover: bool) -> CInflate {
        let mut stream = z_stream();
        // SAFETY: as for the deflater.
        let status =
            unsafe { z::inflateInit2_(&mut *stream, -15, z::zlibVersion(), size_of::<z::z_stream>() as i32) };
        assert_eq!(status, z::Z_OK);
        CInflate { stream, takeover }
    }
}

impl Codec for CInflate {
    fn code(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        let stream = &mut *self.stream;
        // SAFETY: as for the deflater.
        unsafe {
            if !self.takeover {
                z::inflateReset(stream);
            }
            stream.next_out = out.as_mut_ptr();
            stream.avail_out = out.len() as u32;
            for part in [input, &TAIL] {
                stream.next_in = part.as_ptr().cast_mut();
                stream.avail_in = part.len() as u32;
                assert_eq!(z::inflate(stream, z::Z_SYNC_FLUSH), z::Z_OK);
            }
        }
        out.len() - stream.avail_out as usize
    }
}

impl Drop for CInflate {
    fn drop(&mut self) {
        // SAFETY: as for the deflater.
        unsafe { z::inflateEnd(&mut *self.stream) };
    }
}

fn z_stream() -> Box<z::z_stream> {
    // SAFETY: zlib's own way to begin: null pointers (default allocators) and zeros. The two function pointers
    // are set before the value is called initialised.
    let mut stream = Box::new(MaybeUninit::<z::z_stream>::zeroed());
    unsafe {
        let raw = stream.as_mut_ptr();
        (&raw mut (*raw).zalloc).write(zalloc);
        (&raw mut (*raw).zfree).write(zfree);
        Box::from_raw(Box::into_raw(stream).cast())
    }
}

extern "C" fn zalloc(_: z::voidpf, items: z::uInt, size: z::uInt) -> z::voidpf {
    // SAFETY: any sizes are fine.
    unsafe { libc::calloc(items as usize, size as usize).cast() }
}

extern "C" fn zfree(_: z::voidpf, address: z::voidpf) {
    // SAFETY: it came from `zalloc`.
    unsafe { libc::free(address.cast()) }
}
