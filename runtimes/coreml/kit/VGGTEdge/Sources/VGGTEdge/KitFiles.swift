#if canImport(CoreML)
    import CryptoKit
    import Foundation
    import VGGTEdgeCore

    /// The files of a kit, compared with what `kit.json` lists.
    struct KitFiles {
        private static let chunk = 4 << 20

        let kit: Kit
        let folder: URL

        /// The golden tensors and the package are byte for byte what was exported. A model that Xcode compiled has no
        /// package any more, and nothing to compare.
        func check() async throws {
            if let golden = kit.golden {
                try await check(folder.appendingPathComponent(golden.file), sha256: golden.sha256)
            }
            guard CompiledModelCache.modelBuiltIntoApp(of: kit, in: folder) == nil else { return }
            let package = folder.appendingPathComponent(kit.model.package, isDirectory: true)
            for (path, sha256) in kit.model.files.sorted(by: { $0.key < $1.key }) {
                try await check(package.appendingPathComponent(path), sha256: sha256)
            }
        }

        private func check(_ file: URL, sha256: String) async throws {
            let found: String
            do {
                found = try await Self.sha256(of: file)
            } catch let error as CancellationError {
                throw error
            } catch {
                throw Self.damaged(file, "cannot be read: \(error.localizedDescription)", error)
            }
            guard found == sha256 else { throw Self.damaged(file, "is not the file that kit.json lists") }
        }

        private static func damaged(_ file: URL, _ reason: String, _ cause: (any Error)? = nil) -> KitError {
            KitError(
                .damagedFile,
                "\(file.lastPathComponent) \(reason)",
                remedy: "copy it from the bundle again",
                underlying: cause
            )
        }

        /// Chunk by chunk: each is freed before the next one is read, other tasks get their turn between two, and a
        /// cancelled task stops.
        private static func sha256(of file: URL) async throws -> String {
            let handle = try FileHandle(forReadingFrom: file)
            defer { try? handle.close() }
            var hash = SHA256()
            var isDone = false
            while !isDone {
                try Task.checkCancellation()
                isDone = try autoreleasepool {
                    guard let part = try handle.read(upToCount: chunk), !part.isEmpty else { return true }
                    hash.update(data: part)
                    return false
                }
                await Task.yield()
            }
            return hash.finalize().map { String(format: "%02x", $0) }.joined()
        }
    }

    extension Prediction {
        /// A digest of all outputs: equal for predictions that are equal byte for byte.
        func digest() throws -> SHA256Digest {
            var hash = SHA256()
            for name in outputs.keys.sorted() {
                hash.update(data: Data(name.utf8))
                try outputs[name]?.withValues { hash.update(bufferPointer: UnsafeRawBufferPointer($0)) }
            }
            return hash.finalize()
        }
    }
#endif
