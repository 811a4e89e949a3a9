// Asks the exporter's Core ML interpreter, a Python process behind a Unix socket (tests/kits/swift/interpreter.py).
//
// One request is one line: `open`, or `run`, and paths. One answer is one line of JSON. Tensors go through files.
import Foundation

#if canImport(Glibc)
    import Glibc
#endif

public struct InterpreterError: Error, CustomStringConvertible {
    public let description: String

    public init(description: String) { self.description = description }
}

public enum Interpreter {
    /// The socket, if the tests were started with an interpreter.
    public static var socketPath: String? { ProcessInfo.processInfo.environment["VGGT_EDGE_INTERPRETER"] }

    /// What a package declares about itself.
    public struct Description: Decodable, Sendable {
        public let inputs: [String]
        public let outputs: [String]
        public let metadata: [String: String]
    }

    public static func describe(_ package: URL) throws -> Description {
        try JSONDecoder().decode(Description.self, from: ask("open\t\(package.path)"))
    }

    /// Runs a package: raw little-endian float32 in `input`, one raw file per output in the folder that is returned.
    public static func run(_ package: URL, input: URL) throws -> [String: Tensor] {
        try JSONDecoder().decode([String: Tensor].self, from: ask("run\t\(package.path)\t\(input.path)"))
    }

    public struct Tensor: Decodable, Sendable {
        public let shape: [Int]
        public let file: String
    }

    private static func ask(_ request: String) throws -> Data {
        guard let path = socketPath else { throw InterpreterError(description: "VGGT_EDGE_INTERPRETER is not set") }
        let descriptor = try connected(to: path)
        defer { close(descriptor) }
        let handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: false)
        try handle.write(contentsOf: Data((request + "\n").utf8))
        let answer = try handle.readToEnd() ?? Data()
        guard answer.first == UInt8(ascii: "{") else {
            throw InterpreterError(description: String(decoding: answer, as: UTF8.self))
        }
        return answer
    }

    /// The interpreter needs some time to start.
    private static func connected(to path: String) throws -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
        for _ in 0..<1200 {
            let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            let status = withUnsafePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
                }
            }
            if status == 0 { return descriptor }
            close(descriptor)
            Thread.sleep(forTimeInterval: 0.1)
        }
        throw InterpreterError(description: "nobody listens on \(path)")
    }
}
