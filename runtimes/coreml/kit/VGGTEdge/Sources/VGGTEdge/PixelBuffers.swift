#if canImport(CoreVideo)
    import CoreVideo
    import Foundation
    import VGGTEdgeCore

    extension RGBImage {
        /// The pixels of a Core Video buffer, copied: the buffer can go back to its pool.
        ///
        /// Takes `32BGRA`, `32RGBA` and the two `420YpCbCr8BiPlanar` formats (ARKit and the camera give the full-range
        /// one). What the buffer says about itself is followed: the matrix of YCbCr (BT.601 where it says none), the
        /// primaries (Display P3 and BT.2020 become sRGB, which is also taken where it says none), the clean aperture,
        /// and alpha, which is laid on white.
        /// - Throws: `KitError` for another pixel format, matrix, primaries or transfer function, for alpha without a
        ///   meaning, or a buffer whose memory cannot be reached.
        public init(_ pixelBuffer: CVPixelBuffer) throws {
            self = try RGBImage.image(of: pixelBuffer, turn: .upright, to: nil)
        }

        /// The same, upright, and as a model's input: only the pixels that it depends on are read.
        static func image(of buffer: CVPixelBuffer, turn: QuarterTurn, to input: ModelFrame?) throws -> RGBImage {
            guard CVPixelBufferLockBaseAddress(buffer, .readOnly) == kCVReturnSuccess else {
                throw unreadable(buffer)
            }
            defer { CVPixelBufferUnlockBaseAddress(buffer, .readOnly) }
            let frame = FrameInMemory(try source(of: buffer), space: try colorSpace(of: buffer))
            return try frame.image(turn: turn, to: input)
        }

        /// A new buffer with these pixels as `32BGRA`, for a model that takes pictures.
        ///
        /// - Throws: `KitError` if the system has no memory for it.
        public func pixelBuffer() throws -> CVPixelBuffer {
            var created: CVPixelBuffer?
            let status = CVPixelBufferCreate(
                kCFAllocatorDefault,
                size.width,
                size.height,
                kCVPixelFormatType_32BGRA,
                attributes(kCVPixelBufferIOSurfacePropertiesKey, [:]),
                &created
            )
            guard status == kCVReturnSuccess, let buffer = created,
                CVPixelBufferLockBaseAddress(buffer, []) == kCVReturnSuccess
            else {
                throw KitError(
                    .modelFailed,
                    "no pixel buffer of \(size) pixels (Core Video says \(status))",
                    remedy: "free memory before the prediction"
                )
            }
            defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
            guard let base = CVPixelBufferGetBaseAddress(buffer) else { throw unreadable(buffer) }
            let bytesPerRow = CVPixelBufferGetBytesPerRow(buffer)
            let bytes = UnsafeMutableRawBufferPointer(start: base, count: bytesPerRow * size.height)
            pixels.withUnsafeBufferPointer { pixels in
                for row in 0..<size.height {
                    for column in 0..<size.width {
                        let (from, to) = (3 * (row * size.width + column), row * bytesPerRow + 4 * column)
                        bytes[to] = pixels[from + 2]
                        bytes[to + 1] = pixels[from + 1]
                        bytes[to + 2] = pixels[from]
                        bytes[to + 3] = 255
                    }
                }
            }
            return buffer
        }
    }

    // MARK: - What a buffer says about itself

    private func source(of buffer: CVPixelBuffer) throws -> FrameInMemory.Pixels {
        switch CVPixelBufferGetPixelFormatType(buffer) {
        case kCVPixelFormatType_32BGRA: return try packed(buffer, .bgra)
        case kCVPixelFormatType_32RGBA: return try packed(buffer, .rgba)
        case kCVPixelFormatType_420YpCbCr8BiPlanarFullRange: return try planar(buffer, .full)
        case kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange: return try planar(buffer, .video)
        case let format:
            throw KitError(
                .wrongInput,
                "the pixel format \(fourCharacters(format)) is not supported",
                remedy: "ask the camera for kCVPixelFormatType_32BGRA or 420YpCbCr8BiPlanarFullRange"
            )
        }
    }

    private func packed(_ buffer: CVPixelBuffer, _ order: PixelOrder) throws -> FrameInMemory.Pixels {
        guard let base = CVPixelBufferGetBaseAddress(buffer) else { throw unreadable(buffer) }
        let (whole, bytesPerRow) = (size(of: buffer), CVPixelBufferGetBytesPerRow(buffer))
        let bytes = UnsafeRawBufferPointer(start: base, count: bytesPerRow * whole.height)
        let plane = BytePlane(bytes: bytes, bytesPerRow: bytesPerRow)
        return .packed(
            try PackedPixels(plane: plane, whole: whole, area: area(of: buffer), order: order, alpha: alpha(of: buffer))
        )
    }

    private func planar(_ buffer: CVPixelBuffer, _ levels: YCbCrEncoding.Levels) throws -> FrameInMemory.Pixels {
        .planar(
            try PlanarPixels(
                luma: plane(0, of: buffer),
                chroma: plane(1, of: buffer),
                size: size(of: buffer),
                area: area(of: buffer),
                encoding: YCbCrEncoding(matrix: matrix(of: buffer), levels: levels)
            )
        )
    }

    private func size(of buffer: CVPixelBuffer) -> FrameSize {
        FrameSize(width: CVPixelBufferGetWidth(buffer), height: CVPixelBufferGetHeight(buffer))
    }

    private func plane(_ index: Int, of buffer: CVPixelBuffer) throws -> BytePlane {
        guard let base = CVPixelBufferGetBaseAddressOfPlane(buffer, index) else { throw unreadable(buffer) }
        let bytesPerRow = CVPixelBufferGetBytesPerRowOfPlane(buffer, index)
        let rows = CVPixelBufferGetHeightOfPlane(buffer, index)
        let bytes = UnsafeRawBufferPointer(start: base, count: bytesPerRow * rows)
        return BytePlane(bytes: bytes, bytesPerRow: bytesPerRow)
    }

    /// The clean aperture, whose offsets are from the middle of the buffer to its own; all of the buffer without one.
    private func area(of buffer: CVPixelBuffer) throws -> PixelArea {
        let size = size(of: buffer)
        guard let attached = CVBufferCopyAttachment(buffer, kCVImageBufferCleanApertureKey, nil) else {
            return PixelArea(of: size)
        }
        let aperture = numbers(attached) ?? [:]
        func number(_ key: CFString) -> Double { aperture[text(key) ?? ""] ?? 0 }
        let (width, height) = (
            number(kCVImageBufferCleanApertureWidthKey), number(kCVImageBufferCleanApertureHeightKey)
        )
        let left = (Double(size.width) - width) / 2 + number(kCVImageBufferCleanApertureHorizontalOffsetKey)
        let top = (Double(size.height) - height) / 2 + number(kCVImageBufferCleanApertureVerticalOffsetKey)
        guard let rows = range(from: top, length: height, within: size.height),
            let columns = range(from: left, length: width, within: size.width)
        else {
            throw KitError(
                .wrongInput,
                "a clean aperture of \(width) x \(height) at \(left), \(top) in a buffer of \(size) pixels",
                remedy: "remove the attachment kCVImageBufferCleanApertureKey, or correct it"
            )
        }
        return PixelArea(rows: rows, columns: columns)
    }

    /// Whole pixels; nil for an empty range or one that leaves the buffer.
    private func range(from start: Double, length: Double, within limit: Int) -> Range<Int>? {
        let (first, last) = (start.rounded(.down), (start.rounded(.down) + length).rounded())
        guard first >= 0, last > first, last <= Double(limit) else { return nil }
        return Int(first)..<Int(last)
    }

    private func attachment(_ buffer: CVPixelBuffer, _ key: CFString) -> String? {
        text(CVBufferCopyAttachment(buffer, key, nil))
    }

    private func matrix(of buffer: CVPixelBuffer) throws -> YCbCrEncoding.Matrix {
        let name = attachment(buffer, kCVImageBufferYCbCrMatrixKey)
        if name == nil || name == text(kCVImageBufferYCbCrMatrix_ITU_R_601_4) { return .bt601 }
        if name == text(kCVImageBufferYCbCrMatrix_ITU_R_709_2) { return .bt709 }
        if name == text(kCVImageBufferYCbCrMatrix_ITU_R_2020) { return .bt2020 }
        throw unsupported("YCbCr matrix", name, "BT.601, BT.709 or BT.2020")
    }

    private func colorSpace(of buffer: CVPixelBuffer) throws -> ColorSpace {
        let curve = attachment(buffer, kCVImageBufferTransferFunctionKey)
        let curves = [
            kCVImageBufferTransferFunction_ITU_R_709_2, kCVImageBufferTransferFunction_sRGB,
            kCVImageBufferTransferFunction_ITU_R_2020,
        ].map { text($0) }
        guard curve == nil || curves.contains(curve) else {
            throw unsupported("transfer function", curve, "sRGB, BT.709 or BT.2020: pictures of ordinary brightness")
        }
        let name = attachment(buffer, kCVImageBufferColorPrimariesKey)
        if name == nil || name == text(kCVImageBufferColorPrimaries_ITU_R_709_2) { return .sRGB }
        if name == text(kCVImageBufferColorPrimaries_P3_D65) { return .displayP3 }
        if name == text(kCVImageBufferColorPrimaries_ITU_R_2020) { return .bt2020 }
        throw unsupported("primaries", name, "sRGB (BT.709), P3 or BT.2020")
    }

    private func alpha(of buffer: CVPixelBuffer) -> PixelAlpha {
        let mode = attachment(buffer, kCVImageBufferAlphaChannelModeKey)
        if mode == text(kCVImageBufferAlphaChannelMode_StraightAlpha) { return .straight }
        if mode == text(kCVImageBufferAlphaChannelMode_PremultipliedAlpha) { return .premultiplied }
        return .unknown
    }

    private func unsupported(_ what: String, _ name: String?, _ expected: String) -> KitError {
        KitError(.wrongInput, "a buffer with the \(what) \(name ?? "none")", remedy: "convert it to \(expected)")
    }

    private func unreadable(_ buffer: CVPixelBuffer) -> KitError {
        KitError(
            .wrongInput,
            "the memory of a \(fourCharacters(CVPixelBufferGetPixelFormatType(buffer))) buffer cannot be reached",
            remedy: "pass a buffer that lies in memory, and lock it for writing nowhere else"
        )
    }

    /// `420f` and the like, as Core Video's documentation writes formats.
    private func fourCharacters(_ format: OSType) -> String {
        let bytes = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: format >> $0) }
        return bytes.allSatisfy { (32...126).contains($0) } ? String(decoding: bytes, as: UTF8.self) : "\(format)"
    }
#endif
