#if canImport(CoreML)
    import CoreML
    import Foundation
    import VGGTEdgeCore

    /// Finds the compiled form of a kit's model. A package is compiled once per content and kept in the caches folder.
    ///
    /// The system may empty that folder; the model is then compiled again.
    public struct CompiledModelCache: Sendable {
        /// Where compiled models are kept, each called after the sha256 of its package.
        public let folder: URL

        /// - Parameter folder: Where compiled models are kept; by default `VGGTEdge` in the app's caches.
        public init(folder: URL? = nil) {
            self.folder = folder ?? URL.cachesDirectory.appending(path: "VGGTEdge", directoryHint: .isDirectory)
        }

        /// The compiled model, compiled now if it has to be.
        ///
        /// A model that Xcode compiled into the app is used as it is. Otherwise the package has to lie beside
        /// `kit.json`; compiling takes seconds to a minute and needs as much free storage as the package.
        /// - Parameters:
        ///   - kit: The kit.
        ///   - source: The folder of `kit.json`.
        /// - Throws: `KitError` if there is no model or Core ML cannot compile it.
        public func compiledModel(of kit: Kit, in source: URL) async throws -> URL {
            if let built = Self.modelBuiltIntoApp(of: kit, in: source) { return built }
            let kept = place(of: kit)
            if Self.exists(kept) { return kept }
            let package = source.appending(path: kit.model.package, directoryHint: .isDirectory)
            guard Self.exists(package) else {
                throw KitError(
                    .damagedFile,
                    "no \(kit.model.package) in \(source.path(percentEncoded: false))",
                    remedy: "add the package from the bundle's coreml folder to the app, beside kit.json"
                )
            }
            return try await compile(package, to: kept)
        }

        /// Forgets compiled models, all or all but one.
        ///
        /// - Parameter kit: The kit whose model stays.
        /// - Throws: The error of the file system.
        public func removeModels(except kit: Kit? = nil) throws {
            guard Self.exists(folder) else { return }
            let stays = kit.map { place(of: $0).lastPathComponent }
            let files = FileManager.default
            for entry in try files.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
            where entry.lastPathComponent != stays {
                try files.removeItem(at: entry)
            }
        }

        /// Forgets one model, such as one that an update of the system made unusable.
        func removeModel(of kit: Kit) throws {
            let kept = place(of: kit)
            if Self.exists(kept) { try FileManager.default.removeItem(at: kept) }
        }

        /// What Xcode makes of a package that is a member of the app's target.
        static func modelBuiltIntoApp(of kit: Kit, in source: URL) -> URL? {
            let stem = (kit.model.package as NSString).deletingPathExtension
            let built = source.appending(path: "\(stem).mlmodelc", directoryHint: .isDirectory)
            return exists(built) ? built : nil
        }

        private func place(of kit: Kit) -> URL {
            folder.appending(path: "\(kit.model.sha256).mlmodelc", directoryHint: .isDirectory)
        }

        private func compile(_ package: URL, to kept: URL) async throws -> URL {
            let compiled: URL
            do {
                compiled = try await MLModel.compileModel(at: package)
            } catch {
                throw KitError(
                    .modelFailed,
                    "Core ML cannot compile \(package.lastPathComponent): \(error.localizedDescription)",
                    remedy: "check the free storage, and with DeviceCheck that the package was copied whole"
                )
            }
            let files = FileManager.default
            do {
                try files.createDirectory(at: folder, withIntermediateDirectories: true)
                try files.moveItem(at: compiled, to: kept)
            } catch {
                // Somebody else compiled the same package meanwhile, or the caches cannot be written: both models work.
                return Self.exists(kept) ? kept : compiled
            }
            return kept
        }

        private static func exists(_ url: URL) -> Bool {
            FileManager.default.fileExists(atPath: url.path(percentEncoded: false))
        }
    }
#endif
