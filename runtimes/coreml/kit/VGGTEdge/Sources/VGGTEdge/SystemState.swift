#if canImport(CoreML)
    import Foundation
    import VGGTEdgeCore

    extension DeviceDescription {
        /// This device.
        public static var current: DeviceDescription {
            let process = ProcessInfo.processInfo
            return DeviceDescription(
                model: process.environment["SIMULATOR_MODEL_IDENTIFIER"] ?? machine,
                system: "\(systemName) \(process.operatingSystemVersionString)",
                isSimulator: isSimulator
            )
        }

        private static var machine: String {
            var names = utsname()
            guard uname(&names) == 0 else { return "unknown" }
            return withUnsafeBytes(of: &names.machine) { bytes in
                String(decoding: bytes.prefix(while: { $0 != 0 }), as: UTF8.self)
            }
        }

        private static var isSimulator: Bool {
            #if targetEnvironment(simulator)
                return true
            #else
                return false
            #endif
        }

        private static var systemName: String {
            #if os(iOS)
                return "iOS"
            #elseif os(visionOS)
                return "visionOS"
            #elseif os(macOS)
                return "macOS"
            #else
                return "unknown"
            #endif
        }
    }

    extension RuntimeDescription {
        /// Core ML of this system.
        static var coreML: RuntimeDescription {
            let version = ProcessInfo.processInfo.operatingSystemVersion
            let text = "\(version.majorVersion).\(version.minorVersion).\(version.patchVersion)"
            return RuntimeDescription(name: "Core ML", version: text)
        }
    }

    extension ProcessInfo {
        /// How warm the device is now, as `result.json` says it.
        var thermalText: String {
            switch thermalState {
            case .nominal: return "nominal"
            case .fair: return "fair"
            case .serious: return "serious"
            case .critical: return "critical"
            @unknown default: return "unknown"
            }
        }
    }

    extension MemoryUse {
        /// The largest footprint of this process so far: what the system's limit for an app counts. The resident size
        /// leaves out what was compressed, and counts what is only mapped.
        static var now: MemoryUse {
            var info = task_vm_info_data_t()
            var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
            let status = withUnsafeMutablePointer(to: &info) { pointer in
                pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                    task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
                }
            }
            guard status == KERN_SUCCESS else { return MemoryUse(bytes: nil, how: "phys_footprint") }
            let peak = max(Int64(clamping: info.phys_footprint), info.ledger_phys_footprint_peak)
            return MemoryUse(bytes: Int(peak), how: "phys_footprint")
        }
    }
#endif
