// Core Video, and Core Foundation, as far as the kit uses them. Bridging (`as CFDictionary`, `as String`) exists on
// Apple's platforms only: the kit's Bridging.swift has a twin for Linux.
@_exported import Foundation

public typealias CFTypeRef = AnyObject

/// Sendable so that the constants of this file compile in every language mode.
public final class CFString: Hashable, @unchecked Sendable {
    public let text: String

    public init(_ text: String) { self.text = text }

    public static func == (first: CFString, second: CFString) -> Bool { first.text == second.text }
    public func hash(into hasher: inout Hasher) { hasher.combine(text) }
}

public final class CFDictionary {
    public let content: [String: Any]

    public init(_ content: [String: Any]) { self.content = content }
}

@available(*, unavailable)
extension CFDictionary: @unchecked Sendable {}

public final class CFAllocator {}

@available(*, unavailable)
extension CFAllocator: @unchecked Sendable {}

nonisolated(unsafe) public let kCFAllocatorDefault: CFAllocator! = nil

public typealias OSType = UInt32
public typealias CVReturn = Int32
public typealias CVOptionFlags = UInt64

public enum CVAttachmentMode: UInt32 {
    case shouldNotPropagate = 0
    case shouldPropagate = 1
}

public let kCVReturnSuccess: CVReturn = 0
private let kCVReturnInvalidArgument: CVReturn = -6661

public struct CVPixelBufferLockFlags: OptionSet, Sendable {
    public let rawValue: CVOptionFlags

    public init(rawValue: CVOptionFlags) { self.rawValue = rawValue }

    public static var readOnly: CVPixelBufferLockFlags { CVPixelBufferLockFlags(rawValue: 1) }
}

public var kCVPixelFormatType_32BGRA: OSType { 0x4247_5241 }
public var kCVPixelFormatType_32RGBA: OSType { 0x5247_4241 }
public var kCVPixelFormatType_420YpCbCr8BiPlanarFullRange: OSType { 0x3432_3066 }
public var kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange: OSType { 0x3432_3076 }
public var kCVPixelFormatType_DepthFloat32: OSType { 0x6664_6570 }

public let kCVPixelBufferIOSurfacePropertiesKey = CFString("IOSurfaceProperties")
public let kCVImageBufferYCbCrMatrixKey = CFString("CVImageBufferYCbCrMatrix")
public let kCVImageBufferYCbCrMatrix_ITU_R_601_4 = CFString("ITU_R_601_4")
public let kCVImageBufferYCbCrMatrix_ITU_R_709_2 = CFString("ITU_R_709_2")
public let kCVImageBufferYCbCrMatrix_ITU_R_2020 = CFString("ITU_R_2020")
public let kCVImageBufferColorPrimariesKey = CFString("CVImageBufferColorPrimaries")
public let kCVImageBufferColorPrimaries_ITU_R_709_2 = CFString("ITU_R_709_2")
public let kCVImageBufferColorPrimaries_P3_D65 = CFString("P3_D65")
public let kCVImageBufferColorPrimaries_ITU_R_2020 = CFString("ITU_R_2020")
public let kCVImageBufferTransferFunctionKey = CFString("CVImageBufferTransferFunction")
public let kCVImageBufferTransferFunction_ITU_R_709_2 = CFString("ITU_R_709_2")
public let kCVImageBufferTransferFunction_ITU_R_2020 = CFString("ITU_R_2020")
public let kCVImageBufferTransferFunction_sRGB = CFString("IEC_sRGB")
public let kCVImageBufferTransferFunction_SMPTE_ST_2084_PQ = CFString("SMPTE_ST_2084_PQ")
public let kCVImageBufferTransferFunction_ITU_R_2100_HLG = CFString("ITU_R_2100_HLG")
public let kCVImageBufferAlphaChannelModeKey = CFString("AlphaChannelMode")
public let kCVImageBufferAlphaChannelMode_StraightAlpha = CFString("StraightAlpha")
public let kCVImageBufferAlphaChannelMode_PremultipliedAlpha = CFString("PremultipliedAlpha")
public let kCVImageBufferCleanApertureKey = CFString("CVCleanAperture")
public let kCVImageBufferCleanApertureWidthKey = CFString("Width")
public let kCVImageBufferCleanApertureHeightKey = CFString("Height")
public let kCVImageBufferCleanApertureHorizontalOffsetKey = CFString("HorizontalOffset")
public let kCVImageBufferCleanApertureVerticalOffsetKey = CFString("VerticalOffset")

/// In Swift `CVBuffer`, `CVImageBuffer` and `CVPixelBuffer` are one class, marked CV_SWIFT_NONSENDABLE.
public final class CVBuffer {
    struct Plane {
        let base: UnsafeMutableRawPointer
        let bytesPerRow: Int
        let height: Int
    }

    let width: Int
    let height: Int
    let format: OSType
    let planes: [Plane]
    /// Not Apple's: strings or dictionaries of numbers.
    public var attachments = [String: Any]()
    /// Not Apple's: how often it is locked now.
    public private(set) var locks = 0

    init(width: Int, height: Int, format: OSType) {
        (self.width, self.height, self.format) = (width, height, format)
        let isPlanar = format == kCVPixelFormatType_420YpCbCr8BiPlanarFullRange
            || format == kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange
        let sizes = isPlanar
            ? [(width, height), ((width + 1) / 2 * 2, (height + 1) / 2)]
            : [(4 * width, height)]
        planes = sizes.map { Self.padded(bytesPerRow: $0.0, rows: $0.1) }
    }

    deinit { planes.forEach { $0.base.deallocate() } }

    /// Rows are padded to 64 bytes, as hardware does, and the padding is no zero.
    private static func padded(bytesPerRow: Int, rows: Int) -> Plane {
        let padded = (bytesPerRow + 63) / 64 * 64
        let base = UnsafeMutableRawPointer.allocate(byteCount: padded * rows, alignment: 64)
        base.initializeMemory(as: UInt8.self, repeating: 0xEE, count: padded * rows)
        return Plane(base: base, bytesPerRow: padded, height: rows)
    }

    func lock() { locks += 1 }

    func unlock() {
        precondition(locks > 0, "unlocked more often than locked")
        locks -= 1
    }

    func base(of plane: Int) -> UnsafeMutableRawPointer? {
        precondition(locks > 0, "the address of a buffer that is not locked")
        return planes.indices.contains(plane) ? planes[plane].base : nil
    }
}

@available(*, unavailable)
extension CVBuffer: @unchecked Sendable {}

public typealias CVImageBuffer = CVBuffer
public typealias CVPixelBuffer = CVImageBuffer

@discardableResult
public func CVPixelBufferCreate(
    _ allocator: CFAllocator?,
    _ width: Int,
    _ height: Int,
    _ pixelFormatType: OSType,
    _ pixelBufferAttributes: CFDictionary?,
    _ pixelBufferOut: UnsafeMutablePointer<CVPixelBuffer?>
) -> CVReturn {
    guard width > 0, height > 0 else { return kCVReturnInvalidArgument }
    pixelBufferOut.pointee = CVBuffer(width: width, height: height, format: pixelFormatType)
    return kCVReturnSuccess
}

@discardableResult
public func CVPixelBufferLockBaseAddress(_ buffer: CVPixelBuffer, _ flags: CVPixelBufferLockFlags) -> CVReturn {
    buffer.lock()
    return kCVReturnSuccess
}

@discardableResult
public func CVPixelBufferUnlockBaseAddress(_ buffer: CVPixelBuffer, _ flags: CVPixelBufferLockFlags) -> CVReturn {
    buffer.unlock()
    return kCVReturnSuccess
}

public func CVPixelBufferGetWidth(_ buffer: CVPixelBuffer) -> Int { buffer.width }
public func CVPixelBufferGetHeight(_ buffer: CVPixelBuffer) -> Int { buffer.height }
public func CVPixelBufferGetPixelFormatType(_ buffer: CVPixelBuffer) -> OSType { buffer.format }
public func CVPixelBufferGetBytesPerRow(_ buffer: CVPixelBuffer) -> Int { buffer.planes[0].bytesPerRow }

public func CVPixelBufferGetBaseAddress(_ buffer: CVPixelBuffer) -> UnsafeMutableRawPointer? { buffer.base(of: 0) }

public func CVPixelBufferGetBaseAddressOfPlane(_ buffer: CVPixelBuffer, _ plane: Int) -> UnsafeMutableRawPointer? {
    buffer.planes.count > 1 ? buffer.base(of: plane) : nil
}

public func CVPixelBufferGetBytesPerRowOfPlane(_ buffer: CVPixelBuffer, _ plane: Int) -> Int {
    buffer.planes[plane].bytesPerRow
}

public func CVPixelBufferGetHeightOfPlane(_ buffer: CVPixelBuffer, _ plane: Int) -> Int { buffer.planes[plane].height }

public func CVBufferCopyAttachment(
    _ buffer: CVBuffer, _ key: CFString, _ mode: UnsafeMutablePointer<CVAttachmentMode>?
) -> CFTypeRef? {
    switch buffer.attachments[key.text] {
    case let text as String: return CFString(text)
    case let content as [String: Any]: return CFDictionary(content)
    default: return nil
    }
}
