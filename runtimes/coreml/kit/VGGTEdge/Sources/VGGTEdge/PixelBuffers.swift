#if canImport(CoreVideo)
    import CoreVideo
    import Foundation
    import VGGTEdgeCore

    extension RGBImage {
        /// The pixels of a Core Video buffer, copied: the buffer can go back to its pool.
        ///
        /// Takes `32BGRA`, `32RGBA` and the two `420YpCbCr8BiPlanar` formats (ARKit and the camera give the full-range
        /// one). The matrix of YCbCr is the buffer's own, BT.601 where it says none.
        /// - Throws: `KitError` for another pixel format, or a buffer whose memory cannot be reached.
        public init(_ pixelBuffer: CVPixelBuffer) throws {
            guard CVPixelBufferLockBaseAddress(pixelBuffer, .readOnly) == kCVReturnSuccess else {
                throw unreadable(pixelBuffer)
            }
            defer { CVPixelBufferUnlockBaseAddress(pixelBuffer, .readOnly) }
            let size = FrameSize(
                width: CVPixelBufferGetWidth(pixelBuffer),
                height: CVPixelBufferGetHeight(pixelBuffer)
            )
            switch CVPixelBufferGetPixelFormatType(pixelBuffer) {
            case kCVPixelFormatType_32BGRA:
                try self.init(packed: pixelBuffer, size: size, order: .bgra)
            case kCVPixelFormatType_32RGBA:
                try self.init(packed: pixelBuffer, size: size, order: .rgba)
            case kCVPixelFormatType_420YpCbCr8BiPlanarFullRange:
                try self.init(planar: pixelBuffer, size: size, levels: .full)
            case kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange:
                try self.init(planar: pixelBuffer, size: size, levels: .video)
            case let format:
                throw KitError(
                    .wrongInput,
                    "the pixel format \(fourCharacters(format)) is not supported",
                    remedy: "ask the camera for kCVPixelFormatType_32BGRA or 420YpCbCr8BiPlanarFullRange"
                )
            }
        }

        private init(packed pixelBuffer: CVPixelBuffer, size: FrameSize, order: PixelOrder) throws {
            guard let base = CVPixelBufferGetBaseAddress(pixelBuffer) else { throw unreadable(pixelBuffer) }
            let bytesPerRow = CVPixelBufferGetBytesPerRow(pixelBuffer)
            let bytes = UnsafeRawBufferPointer(start: base, count: bytesPerRow * size.height)
            try self.init(bytes: bytes, size: size, bytesPerRow: bytesPerRow, order: order)
        }

        private init(planar pixelBuffer: CVPixelBuffer, size: FrameSize, levels: YCbCrEncoding.Levels) throws {
            let encoding = YCbCrEncoding(matrix: matrix(of: pixelBuffer), levels: levels)
            let (luma, chroma) = (try plane(0, of: pixelBuffer), try plane(1, of: pixelBuffer))
            try self.init(luma: luma, chroma: chroma, size: size, encoding: encoding)
        }

        /// A new buffer with these pixels as `32BGRA`, for a model that takes pictures.
        ///
        /// - Throws: `KitError` if the system has no memory for it.
        public func pixelBuffer() throws -> CVPixelBuffer {
            var created: CVPixelBuffer?
            let attributes = [kCVPixelBufferIOSurfacePropertiesKey: [String: String]()] as CFDictionary
            let status = CVPixelBufferCreate(
                kCFAllocatorDefault, size.width, size.height, kCVPixelFormatType_32BGRA, attributes, &created
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
            for row in 0..<size.height {
                for column in 0..<size.width {
                    let (from, to) = (3 * (row * size.width + column), row * bytesPerRow + 4 * column)
                    bytes[to] = pixels[from + 2]
                    bytes[to + 1] = pixels[from + 1]
                    bytes[to + 2] = pixels[from]
                    bytes[to + 3] = 255
                }
            }
            return buffer
        }
    }

    private func unreadable(_ pixelBuffer: CVPixelBuffer) -> KitError {
        KitError(
            .wrongInput,
            "the memory of a \(fourCharacters(CVPixelBufferGetPixelFormatType(pixelBuffer))) buffer cannot be reached",
            remedy: "pass a buffer that lies in memory, and lock it for writing nowhere else"
        )
    }

    private func plane(_ index: Int, of pixelBuffer: CVPixelBuffer) throws -> BytePlane {
        guard let base = CVPixelBufferGetBaseAddressOfPlane(pixelBuffer, index) else { throw unreadable(pixelBuffer) }
        let bytesPerRow = CVPixelBufferGetBytesPerRowOfPlane(pixelBuffer, index)
        let rows = CVPixelBufferGetHeightOfPlane(pixelBuffer, index)
        let bytes = UnsafeRawBufferPointer(start: base, count: bytesPerRow * rows)
        return BytePlane(bytes: bytes, bytesPerRow: bytesPerRow)
    }

    private func matrix(of pixelBuffer: CVPixelBuffer) -> YCbCrEncoding.Matrix {
        let name = CVBufferCopyAttachment(pixelBuffer, kCVImageBufferYCbCrMatrixKey, nil) as? String
        if name == kCVImageBufferYCbCrMatrix_ITU_R_709_2 as String { return .bt709 }
        if name == kCVImageBufferYCbCrMatrix_ITU_R_2020 as String { return .bt2020 }
        return .bt601
    }

    /// `420f` and the like, as Core Video's documentation writes formats.
    private func fourCharacters(_ format: OSType) -> String {
        let bytes = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: format >> $0) }
        return bytes.allSatisfy { (32...126).contains($0) } ? String(decoding: bytes, as: UTF8.self) : "\(format)"
    }
#endif
