//! Decoding of JPEG and PNG files.

use std::{fmt::Display, io::Cursor};

use anyhow::{Context, Result, anyhow, bail, ensure};
use png::{ColorType, Transformations};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

/// Most pixels that are decoded, so that a few hostile bytes cannot fill the memory.
const MAX_PIXELS: usize = 64 << 20;

const JPEG: &[u8] = b"\xff\xd8\xff";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The pixels of one picture as stored: an orientation in its EXIF data is not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Decodes a file, recognised by its first bytes. Grey becomes three equal channels, alpha is dropped.
    ///
    /// # Errors
    /// Neither JPEG nor PNG, damaged or truncated, or too large.
    pub fn decode(file: &[u8]) -> Result<Self> {
        if file.starts_with(JPEG) {
            Self::decode_jpeg(file).context("this JPEG cannot be decoded")
        } else if file.starts_with(PNG) {
            Self::decode_png(file).context("this PNG cannot be decoded")
        } else {
            bail!("neither JPEG nor PNG")
        }
    }

    fn decode_jpeg(file: &[u8]) -> Result<Self> {
        // Otherwise the missing part of a truncated file would be grey.
        let options = DecoderOptions::default()
            .set_strict_mode(true)
            .set_max_width(usize::from(u16::MAX))
            .set_max_height(usize::from(u16::MAX))
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
        decoder.decode_headers().map_err(one_line)?;
        let (width, height) = decoder.dimensions().context("it has no size")?;
        check_size(width, height)?;
        Self::new(width, height, decoder.decode().map_err(one_line)?)
    }

    fn decode_png(file: &[u8]) -> Result<Self> {
        let mut decoder = png::Decoder::new(Cursor::new(file));
        decoder.set_transformations(Transformations::normalize_to_color8());
        let mut reader = decoder.read_info()?;
        check_size(reader.info().width as usize, reader.info().height as usize)?;
        let mut samples = vec![0; reader.output_buffer_size().context("it is too large")?];
        let frame = reader.next_frame(&mut samples)?;
        samples.truncate(frame.buffer_size());
        let rgb = match frame.color_type {
            ColorType::Rgb => samples,
            ColorType::Rgba => samples.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
            ColorType::Grayscale => samples.iter().flat_map(|&grey| [grey; 3]).collect(),
            ColorType::GrayscaleAlpha => samples.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
            ColorType::Indexed => bail!("its palette is missing"),
        };
        Self::new(frame.width as usize, frame.height as usize, rgb)
    }

    fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        ensure!(rgb.len() == 3 * width * height, "it does not have as many pixels as its header says");
        Ok(Self { width, height, rgb })
    }
}

/// Some of the decoder's messages end in a line feed.
fn one_line(error: impl Display) -> anyhow::Error {
    anyhow!("{}", error.to_string().trim_end())
}

fn check_size(width: usize, height: usize) -> Result<()> {
    ensure!(width > 0 && height > 0, "it has no pixels");
    ensure!(
        width.checked_mul(height).is_some_and(|pixels| pixels <= MAX_PIXELS),
        "it has {width}x{height} pixels; at most {MAX_PIXELS} are decoded"
    );
    Ok(())
}
