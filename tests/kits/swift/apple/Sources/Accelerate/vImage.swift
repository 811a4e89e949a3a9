// The one function of vImage that the kit calls.
import Foundation

public typealias vImage_Error = Int
public typealias vImage_Flags = UInt32
public typealias vImagePixelCount = UInt

public var kvImageNoError: Int { 0 }
public var kvImageNoFlags: Int { 0 }
private let nullPointerArgument = -21772

public struct vImage_Buffer {
    public var data: UnsafeMutableRawPointer!
    public var height: vImagePixelCount
    public var width: vImagePixelCount
    public var rowBytes: Int

    public init(data: UnsafeMutableRawPointer!, height: vImagePixelCount, width: vImagePixelCount, rowBytes: Int) {
        self.data = data
        self.height = height
        self.width = width
        self.rowBytes = rowBytes
    }
}

public func vImageConvert_Planar16FtoPlanarF(
    _ src: UnsafePointer<vImage_Buffer>, _ dest: UnsafePointer<vImage_Buffer>, _ flags: vImage_Flags
) -> vImage_Error {
    guard let from = src.pointee.data, let to = dest.pointee.data else { return nullPointerArgument }
    for row in 0..<Int(dest.pointee.height) {
        for column in 0..<Int(dest.pointee.width) {
            let bits = from.load(fromByteOffset: row * src.pointee.rowBytes + 2 * column, as: UInt16.self)
            let offset = row * dest.pointee.rowBytes + 4 * column
            to.storeBytes(of: Float(Float16(bitPattern: bits)), toByteOffset: offset, as: Float.self)
        }
    }
    return kvImageNoError
}
